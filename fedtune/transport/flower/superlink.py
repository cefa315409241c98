"""The engine `superlink`: hand a run to a SuperLink, and follow what its server tells."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import httpx

from fedtune.plain import plain
from fedtune.records.event_log import Follower
from fedtune.records.events import Observer, RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.transport.flower.bundle import make_bundle
from fedtune.transport.flower.control import FINISHED, Control, State
from fedtune.transport.flower.whereabouts import told

_LOOK_S = 0.2
_ASK_S = 2.0  # the SuperLink itself is asked more rarely than the file is read
_AWAY_S = 60.0  # a SuperLink that does not answer for so long is gone
_GRACE_S = 10.0  # until a server that was told to stop is taken for gone


def run_on_superlink(control: Control, server: Path, folder: RunFolder, observer: Observer) -> None:
    """Run what lies in a folder on a SuperLink, from its newest checkpoint.

    Args:
        control: A connection to it.
        server: The launcher's half of its deployment.
        folder: The run's.
        observer: Told what happens.

    Raises:
        RunStoppedError: If the run could not go on, or its server died.
        KeyboardInterrupt: If it was interrupted; the server was stopped.
    """
    follower = Follower(folder.path)
    follower.skip_old()
    with told(server, folder.path) as word:
        run_id = control.start_run(make_bundle(), {"folder": word})
        try:
            _follow(control, run_id, follower, observer)
        except KeyboardInterrupt:
            with suppress(httpx.HTTPError):  # a SuperLink that is away has no order to withdraw
                control.stop_run(run_id)
            _wait_for_the_end(control, run_id)
            raise


def _follow(control: Control, run_id: int, follower: Follower, observer: Observer) -> None:
    asked = answered = time.monotonic()
    while True:
        for event in follower.fresh():
            observer(event)
        if follower.done:
            _wait_for_the_end(control, run_id)
            return
        if time.monotonic() - asked > _ASK_S:
            asked = time.monotonic()
            state = _state(control, run_id)
            answered = answered if state is None else asked
            if asked - answered > _AWAY_S:
                raise RunStoppedError(f"the SuperLink has not answered for {_AWAY_S:.0f} s")
            if state is not None and state.status == FINISHED:
                for event in follower.fresh():  # what came between the two looks
                    observer(event)
                if not follower.done:
                    raise RunStoppedError(f"the server's process ended: {plain(state.details)}")
        time.sleep(_LOOK_S)


def _state(control: Control, run_id: int) -> State | None:
    """None while the SuperLink is away: it may be starting again."""
    try:
        return control.state_of(run_id)
    except httpx.HTTPError:
        return None


def _wait_for_the_end(control: Control, run_id: int) -> None:
    deadline = time.monotonic() + _GRACE_S
    while time.monotonic() < deadline:
        state = _state(control, run_id)
        if state is None or state.status == FINISHED:
            return
        time.sleep(_LOOK_S)

"""What can go wrong on a network, injected for real: the run ends, or stops and can go on.

Not proven here: a power cut, a line that flips bits (TLS would end it), several machines.
"""

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress

import pytest
from left_by_a_run import adapter_bytes
from network import (
    begin,
    descendants,
    end_all,
    kill_tree,
    locally,
    new_deployment,
    run_script,
    start,
    workers,
)

from fedtune.node.sent_log import SENT
from fedtune.records.events import Refused, Replied, RoundFinished, RoundStarted, RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.round.attendance import NOT_CONNECTED
from fedtune.runs.engines import execute
from fedtune.transport.flower.control import Control
from fedtune.transport.flower.deployment_rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ONE_MAY_MISS = "aggregator={name: median, f: 0}"

OTHER_CLOCK = """
import datetime, os, time
from flwr.supercore import date
_time, _ahead = time.time, float(os.environ["AHEAD_S"])
time.time = lambda: _time() + _ahead
date.now = lambda: datetime.datetime.fromtimestamp(time.time(), datetime.timezone.utc)
"""


@pytest.fixture
def deployment(tmp_path):
    folder = new_deployment(tmp_path / "fed")
    with rehearse(folder, say=print) as processes:
        yield folder, processes


class Once:
    """Does something when a round is done, or when its first reply is in; notes refusals."""

    def __init__(self, after, action, *, on=RoundFinished):
        self.after, self.action, self.on = after, action, on
        self.done, self.refused, self.replied = False, [], []

    def __call__(self, event):
        if isinstance(event, Refused):
            self.refused.append((event.round, event.client, event.reason))
        if isinstance(event, Replied):
            self.replied.append((event.round, event.client))
        number = event.record.round if isinstance(event, RoundFinished) else None
        number = event.round if isinstance(event, Replied) else number
        if not self.done and isinstance(event, self.on) and number == self.after:
            self.done = True
            self.action()


def online(folder, patience_s=120):
    """Wait until all nodes are connected."""
    deadline = time.monotonic() + patience_s
    with Control(folder.local_address, folder.ca) as control:
        while time.monotonic() < deadline:
            try:
                status = control.nodes()
            except Exception:  # it is starting
                status = {}
            if all(status.get(key) == "online" for key in folder.public_keys):
                return
            time.sleep(0.5)
    raise AssertionError("not all nodes came back")


def test_a_third_of_the_nodes_lost_for_good_costs_less_than_two_percent(deployment, tmp_path):
    folder, processes = deployment
    lost = Once(1, lambda: kill_tree(processes["node-02"].pid))
    keys = (ONE_MAY_MISS, "federation.round_timeout_s=40", "evaluation.max_rows=64")
    ran = start(folder, tmp_path / "net", lost, *keys)
    whole = locally(tmp_path / "local", *keys)
    records, undisturbed = ran.read_metrics(), whole.read_metrics()
    assert records[-1]["round"] == 3
    assert set(records[-1]["clients"]) == {"0", "1"}
    assert "2" in records[-1]["refused"]
    loss, unhurt = (each[-1]["eval"]["loss"] for each in (records, undisturbed))
    assert abs(loss - unhurt) / unhurt < 0.02


def rounds_sent(node):
    """The rounds whose delta a node has handed over."""
    sent = node / SENT
    return [json.loads(line)["round"] for line in sent.read_text().splitlines()]


def messages(pid):
    """A node's processes of one message: the launcher that starts them is there all the time."""
    guarded = descendants(pid, "fedtune.transport.flower.guard")
    return [each for each in guarded if "launcher" not in each.cmdline()]


@pytest.mark.parametrize("when", ["before", "in the middle of", "after"])
def test_a_node_that_is_killed_around_its_training_is_absent_from_then_on(
    deployment, tmp_path, when
):
    folder, processes = deployment
    pid, killed = processes["node-02"].pid, []

    def kill():
        kill_tree(pid)
        killed.append(rounds_sent(folder.node_folders[2]))

    def observe(event):
        if killed:
            return
        if when == "before" and isinstance(event, RoundFinished) and event.record.round == 1:
            kill()
        if when == "in the middle of" and isinstance(event, RoundStarted) and event.round == 2:
            while not messages(pid):
                time.sleep(0.1)
            time.sleep(3)  # its process of one message has begun, and sixty steps take longer
            kill()
        if when == "after" and isinstance(event, Replied) and (event.round, event.client) == (2, 2):
            kill()

    keys = (ONE_MAY_MISS, "federation.round_timeout_s=60", "federation.local_steps=60")
    records = start(folder, tmp_path / "net", observe, *keys).read_metrics()
    assert killed == [[1, 2] if when == "after" else [1]]
    assert set(records[2]["clients"]) == ({"0", "1", "2"} if when == "after" else {"0", "1"})
    assert set(records[3]["clients"]) == {"0", "1"}
    assert "2" in records[3]["refused"]


def test_a_node_that_comes_back_is_the_same_client(deployment, tmp_path):
    folder, processes = deployment
    again = []

    def end():  # told to end, as a machine that is shut down: its key is free at once
        processes["node-02"].terminate()
        processes["node-02"].wait(30)

    def come_back():
        again.append(run_script(folder.node_folders[2] / "start.sh", tmp_path / "again.log"))
        online(folder)

    leave, back = Once(1, end), []

    def observe(event):
        leave(event)
        if isinstance(event, Refused) and event.reason == NOT_CONNECTED and not back:
            back.append(event.round)
            come_back()

    keys = (ONE_MAY_MISS, "federation.round_timeout_s=60", "federation.num_rounds=15")
    try:
        ran = start(folder, tmp_path / "net", observe, *keys)
    finally:
        end_all(again)
    records = ran.read_metrics()[1:]
    there = [set(each["clients"]) == {"0", "1", "2"} for each in records]
    gone, returned = there.index(False), there.index(True, there.index(False))
    assert 1 <= gone < back[0] <= returned
    assert all(there[returned:]), "it left once, and came back once"
    absent = records[gone:returned]
    assert all(set(each["clients"]) == {"0", "1"} for each in absent)
    assert absent[-1]["refused"] == {"2": NOT_CONNECTED}


def test_a_node_that_hangs_past_the_deadline_is_absent_and_its_late_reply_counts_nowhere(
    deployment, tmp_path
):
    folder, _ = deployment
    pid = workers(folder)["node-01"]

    class Hang(Once):
        def __call__(self, event):
            super().__call__(event)
            if isinstance(event, RoundFinished) and event.record.round == 2:
                os.kill(pid, signal.SIGCONT)

    hang = Hang(1, lambda: os.kill(pid, signal.SIGSTOP))
    ran = start(
        folder, tmp_path / "net", hang, ONE_MAY_MISS, "federation.round_timeout_s=30",
        "federation.num_rounds=4",
    )  # fmt: skip
    records = ran.read_metrics()
    assert records[2]["refused"] == {"1": "it sent no reply"}
    assert set(records[2]["clients"]) == {"0", "2"}
    assert set(records[4]["clients"]) == {"0", "1", "2"}
    # The late reply to round 2 is in no round: each counts one delta of client 1 at most.
    hashes = [each["clients"]["1"]["reply"] for each in records[1:] if "1" in each["clients"]]
    assert len(set(hashes)) == len(hashes) == 3


@pytest.mark.parametrize("what", ["server app", "SuperLink"])
def test_a_run_whose_server_is_killed_goes_on_from_its_checkpoint(deployment, tmp_path, what):
    folder, processes = deployment
    superlink = processes["superlink"].pid
    again = []

    def kill():
        if what == "SuperLink":
            kill_tree(superlink)
            log = tmp_path / "again.log"
            again.append(run_script(folder.server / "start.sh", log))
        else:
            apps = descendants(superlink, "fedtune.transport.flower.guard")
            assert apps
            for app in apps:
                app.kill()

    run, recipe = begin(folder, tmp_path / "net")
    try:
        with pytest.raises(RunStoppedError) as stopped:
            execute(recipe, run, Once(1, kill))
        assert stopped.value.resumable
        online(folder)
        execute(*reversed(RunFolder.open(run.path)), print)
    finally:
        end_all(again)
    assert adapter_bytes(run) == adapter_bytes(locally(tmp_path / "local"))


def test_a_full_disk_stops_the_run_at_a_checkpoint_and_room_lets_it_go_on(deployment, tmp_path):
    folder, _ = deployment
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(small)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    filler = small / "filler"

    def fill():
        with suppress(OSError), filler.open("wb", buffering=0) as stream:
            while True:
                stream.write(b"\0" * 4096)

    try:
        run, recipe = begin(folder, small / "net")
        with pytest.raises(RunStoppedError, match="No space left"):
            execute(recipe, run, Once(1, fill))
        filler.unlink()
        execute(*reversed(RunFolder.open(run.path)), print)
        assert adapter_bytes(run) == adapter_bytes(locally(tmp_path / "local"))
    finally:
        subprocess.run(["umount", "-l", str(small)], check=False)


def with_another_clock(node, tmp_path, log, ahead_s):
    """A node started on a clock that is so many seconds ahead of the SuperLink's."""
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock" / "sitecustomize.py").write_text(OTHER_CLOCK)
    path = os.pathsep.join([str(tmp_path / "clock"), os.environ.get("PYTHONPATH", "")])
    return run_script(node / "start.sh", log, PYTHONPATH=path, AHEAD_S=str(ahead_s))


def test_a_node_whose_clock_is_four_minutes_slow_takes_part(tmp_path):
    folder, log = new_deployment(tmp_path / "fed"), tmp_path / "log"
    started = [run_script(folder.server / "start.sh", log)]
    try:
        started += [run_script(node / "start.sh", log) for node in folder.node_folders[::2]]
        started.append(with_another_clock(folder.node_folders[1], tmp_path, log, -240))
        online(folder)
        seen = Once(0, lambda: None)
        ran = start(folder, tmp_path / "net", seen, "federation.round_timeout_s=90")
    finally:
        end_all(started)
    assert not seen.refused
    assert adapter_bytes(ran) == adapter_bytes(locally(tmp_path / "local"))


def test_a_node_whose_clock_is_fast_is_refused_and_told_why(tmp_path):
    folder, log = new_deployment(tmp_path / "fed"), tmp_path / "log"
    started = [run_script(folder.server / "start.sh", tmp_path / "server.log")]
    try:
        started.append(with_another_clock(folder.node_folders[0], tmp_path, log, 3000))
        deadline = time.monotonic() + 120
        while "clock is" not in (said := log.read_text()) and time.monotonic() < deadline:
            time.sleep(0.5)
    finally:
        end_all(started)
    (told,) = {line for line in said.splitlines() if "clock is" in line}
    assert "s ahead of the SuperLink's" in told
    assert 2990 < float(told.split(" s ahead")[0].split()[-1]) < 3010

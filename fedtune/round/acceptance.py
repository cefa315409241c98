"""What follows from a round's step: its juries, undone tries, and the state that goes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.lines import Jury as JuryRecord
from fedtune.records.lines import RoundRecord
from fedtune.round.defence.candidate import Verdict, line_search
from fedtune.round.defence.server_data import LossOf, Trial
from fedtune.round.exchange import Exchange
from fedtune.round.state import Moved, State
from fedtune.round.voting import Voting


@dataclass(frozen=True, eq=False)
class Made:
    """What a round's step was made of.

    Attributes:
        change: The aggregate, as the run's geometry makes it.
        unstepped: The server's state once the rule had run and before the step, with the counts
            that go with it.
    """

    change: Any
    unstepped: State


class Stepping(Moved, Protocol):
    """A server that steps along what the rule has made of a round."""

    record: RoundRecord
    made: Made | None
    undone_rounds: int

    def step(self, change: Any) -> None:  # noqa: ANN401  as the geometry makes them
        """Move the anchor along a change; a ValueError moves nothing."""


class Jury(Protocol):
    """Judges candidates; ``record_of`` is asked for one verdict at least, in order of tries."""

    def judge(
        self,
        candidate: Tensor,
        accepted: Tensor,
        *,
        scale: float,
        transport: Transport,
        record: RoundRecord,
    ) -> Verdict:
        """What it says of a candidate, made of so much of the aggregate."""

    def record_of(self, verdicts: Sequence[Any]) -> JuryRecord:
        """What a round's record says of them."""


def juries_of(
    recipe: Recipe, layout: Layout, exchange: Exchange, loss_of: LossOf | None
) -> dict[str, Jury]:
    """Who judges a step, by their name in the record: the server first, whom it costs least.

    Raises:
        ValueError: If the server is to try steps, and there is no model to try them on.
    """
    juries: dict[str, Jury] = {}
    if (section := recipe.defence.server_data) is not None:
        if loss_of is None:
            raise ValueError("defence.server_data needs loss_of: got None; hand over a model")
        juries["trial"] = Trial(section.tolerance, loss_of)
    if recipe.defence.vote is not None:
        juries["vote"] = Voting(recipe, layout, exchange)
    return juries


def settle(
    server: Stepping, juries: Mapping[str, Jury], before: State, transport: Transport
) -> None:
    """Let a step stand that every jury lets; undone, try half of it, and then leave it.

    Nothing is saved before this returns, so that each checkpoint holds an anchor that was judged.
    A process that is killed in here goes on from the last accepted one and runs the round again: to
    the same candidate, the same verdicts and the same bits.

    Args:
        server: Has made a step.
        juries: By their names in the record, in the order in which they are asked.
        before: The server's state before the round.
        transport: Of any engine.
    """

    def hear(jury: Jury, scale: float) -> Verdict:
        candidate, record = server.geometry.anchor, server.record
        return jury.judge(candidate, before.anchor, scale=scale, transport=transport, record=record)

    asked = {name: partial(hear, jury) for name, jury in juries.items()}
    heard, stands = line_search(asked, shorten=_shortening(server))
    server.made = None  # and with it the mapped rows
    if not stands:
        before.put_back(server)
        server.undone_rounds += 1
    said = {name: juries[name].record_of(each) for name, each in heard.items() if each}
    server.record.note(**said, undone_rounds=server.undone_rounds, **server.counts)


def _shortening(server: Stepping) -> Callable[[float], bool]:
    def shorten(scale: float) -> bool:
        assert server.made is not None
        change = server.geometry.shorter(server.made.change, scale)
        if change is None:
            return False
        server.made.unstepped.put_back(server)
        try:
            server.step(change)
        except ValueError:  # out of float32's range, where the longer one was in it
            return False
        return True

    return shorten

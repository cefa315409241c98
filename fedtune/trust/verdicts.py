"""What juries said of a step, told again from their recorded numbers; the decisions are anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import Tensor

from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.lines import Jury as Said
from fedtune.records.lines import RoundRecord
from fedtune.round.acceptance import Jury
from fedtune.round.defence.candidate import Verdict
from fedtune.round.defence.server_data import Tried
from fedtune.round.defence.vote import Votes, byzantine_voters, count


class Retold:
    """A jury whose verdicts stand in a record; what follows from each number is worked out anew.

    Args:
        verdicts: In the order of tries.
        name: Of the jury in the record.
    """

    def __init__(self, verdicts: Iterator[Verdict], name: str) -> None:
        self._verdicts, self._name = verdicts, name

    def judge(
        self,
        candidate: Tensor,
        accepted: Tensor,
        *,
        scale: float,
        transport: Transport,
        record: RoundRecord,
    ) -> Verdict:
        """The next verdict.

        Raises:
            ValueError: If the record has no more of them, or none that can be read.
        """
        try:
            return next(self._verdicts)
        except StopIteration as error:
            raise ValueError(f"{self._name}: the record has no verdict on a candidate") from error

    def record_of(self, verdicts: Sequence[Verdict]) -> Said:
        """Every try, to be held against what the record says."""
        return Said(tries=[verdict.as_record() for verdict in verdicts])


def retold(recipe: Recipe, line: RoundRecord) -> dict[str, Jury]:
    """The juries of a recipe as a round's line tells of them."""
    juries: dict[str, Jury] = {}
    if recipe.defence.server_data is not None:
        tolerance = recipe.defence.server_data.tolerance
        juries["trial"] = Retold(_trial(line.trial, tolerance), "trial")
    if recipe.defence.vote is not None:
        juries["vote"] = Retold(_votes(line.vote, recipe, recipe.defence.vote.tolerance), "vote")
    return juries


def _trial(said: Said | None, tolerance: float) -> Iterator[Verdict]:
    for each in said.tries if said is not None else ():
        if each.change is None:
            return
        yield Tried(each.scale, each.change, "undone" if each.change > tolerance else "accepted")


def _votes(said: Said | None, recipe: Recipe, tolerance: float) -> Iterator[Verdict]:
    for each in said.tries if said is not None else ():
        votes = Votes(each.changes, each.not_counted)
        f = byzantine_voters(recipe)
        yield count(votes, scale=each.scale, f=f, tolerance=tolerance)

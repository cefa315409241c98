"""What juries said of a step, told again from their recorded numbers; the decisions are anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
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
        record: dict[str, Any],
    ) -> Verdict:
        """The next verdict.

        Raises:
            ValueError: If the record has no more of them, or none that can be read.
        """
        try:
            return next(self._verdicts)
        except (StopIteration, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{self._name}: the record has no verdict on a candidate") from error

    def record_of(self, verdicts: Sequence[Verdict]) -> dict[str, Any]:
        """Every try, to be held against what the record says."""
        return {"tries": [verdict.as_record() for verdict in verdicts]}


def retold(recipe: Recipe, line: Mapping[str, Any]) -> dict[str, Jury]:
    """The juries of a recipe as a round's line tells of them."""
    juries: dict[str, Jury] = {}
    if recipe.defence.server_data is not None:
        tolerance = recipe.defence.server_data.tolerance
        juries["trial"] = Retold(_trial(line, tolerance), "trial")
    if recipe.defence.vote is not None:
        juries["vote"] = Retold(_votes(line, recipe, recipe.defence.vote.tolerance), "vote")
    return juries


def _trial(line: Mapping[str, Any], tolerance: float) -> Iterator[Verdict]:
    for each in line["trial"]["tries"]:
        change = float(each["change"])
        yield Tried(each["scale"], change, "undone" if change > tolerance else "accepted")


def _votes(line: Mapping[str, Any], recipe: Recipe, tolerance: float) -> Iterator[Verdict]:
    for each in line["vote"]["tries"]:
        changes = {int(client): float(change) for client, change in each["changes"].items()}
        votes = Votes(changes, {int(client): why for client, why in each["not_counted"].items()})
        f = byzantine_voters(recipe)
        yield count(votes, scale=each["scale"], f=f, tolerance=tolerance)

"""Which round of a run was best by the figure that its recipe watches, and whether to go on."""

from __future__ import annotations

from collections.abc import Iterable

from fedtune.recipe.evaluation import LOWER_IS_BETTER, Evaluation
from fedtune.records.lines import RoundRecord


def best_of(records: Iterable[RoundRecord], watch: str) -> int | None:
    """The first of the rounds with the best value; 0 is the start. None where there is no value."""
    sign = -1.0 if watch in LOWER_IS_BETTER else 1.0
    best: tuple[float, int] | None = None
    for record in records:
        value = None if record.eval is None else record.eval.get(watch)
        if value is not None and (best is None or sign * value > best[0]):
            best = sign * value, record.round
    return None if best is None else best[1]


def is_exhausted(records: Iterable[RoundRecord], section: Evaluation) -> bool:
    """Whether the watched figure has not become better for as many rounds as the recipe waits.

    Args:
        records: From the base on; those that were not measured do not count.
        section: Of the recipe.
    """
    if section.watch is None or section.stop_after is None:
        return False
    measured = [record for record in records if record.eval is not None]
    best = best_of(measured, section.watch)
    return bool(measured) and measured[-1].round - (best or 0) >= section.stop_after

"""A round's held-out figures, and what follows from them: the best adapter, and the run's end."""

from __future__ import annotations

from functools import partial

from torch import Tensor

from fedtune.recipe import Recipe
from fedtune.records.best import best_of, is_exhausted
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.runs.evaluation import judge
from fedtune.runs.model_card import leave_adapter
from fedtune.training.worker import Worker


def measure_round(
    recipe: Recipe, folder: RunFolder, worker: Worker, anchor: Tensor, record: RoundRecord
) -> bool:
    """Measure the anchor of a round into its record; keep its adapter if it is the best so far.

    The adapter is in its place before the line is: a run that is killed in between goes on to the
    same bits, and writes the same again.

    Args:
        recipe: The run's.
        folder: The run's, whose lines end with the round before.
        worker: Measures.
        anchor: A float32 row of the whole layout.
        record: The round's; it is added to.

    Returns:
        Whether the run ends here for want of a better round.
    """
    record.note(eval=judge(recipe, worker, anchor))
    section = recipe.evaluation
    if section.watch is None:
        return False
    records = [*folder.read_records(), record]
    record.best_round = best_of(records, section.watch)
    if record.best_round == record.round:
        folder.replace_adapter(partial(leave_adapter, worker, records, anchor), folder.best_adapter)
    if ends := is_exhausted(records, section):
        record.stopped_early = True
    return ends

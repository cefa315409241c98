"""Rows that are tokenised, kept for all in this process that would prepare them alike.

So a run takes up what its check has prepared, and the cells of a bench share their clients' rows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedtune.recipe import Recipe
from fedtune.training.base import hash_tokenizer
from fedtune.training.row_counts import RowCounts

if TYPE_CHECKING:
    from datasets import Dataset

KEPT = 2  # of sets of rows at a time: a check's and a run's, or two stages'
# Sections that no tokenised row hangs on.
_UNREAD = {
    "aggregator", "attack", "defence", "outer", "output_dir", "report_to", "checkpoint", "lora",
    "initial_adapter", "reference", "rewards",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows as long as they may be, and what became of the others."""

    rows: Dataset
    counts: RowCounts


Key = tuple[str, int | None, str]
"""train or test, the client, and the poison."""
Store = dict[Key, Prepared]
_STORES: OrderedDict[str, Store] = OrderedDict()


def store_of(recipe: Recipe, data_hash: str, tokenizer: Any, own: int | None) -> Store:  # noqa: ANN401
    """The store of all that decides on tokenised rows; the oldest one beyond `KEPT` is forgotten.

    Args:
        recipe: How rows are dealt and prepared.
        data_hash: Of the rows.
        tokenizer: Of the model.
        own: The one client whose rows all are; None: they are dealt to all.
    """
    facts = (recipe.model_dump_json(exclude=_UNREAD), data_hash, hash_tokenizer(tokenizer), own)
    name = hashlib.sha256(repr(facts).encode()).hexdigest()
    store = _STORES.pop(name, {})
    _STORES[name] = store
    while len(_STORES) > KEPT:
        _STORES.popitem(last=False)
    return store

"""Rows that are tokenised, kept for all in this process that would prepare them alike.

So a run takes up what its check has prepared, and the cells of a bench share their clients' rows.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fedtune.recipe import Recipe
from fedtune.training.base import hash_tokenizer
from fedtune.training.row_counts import RowCounts
from fedtune.training.tasks import Learner

if TYPE_CHECKING:
    from datasets import Dataset

KEPT = 4  # of sets of rows at a time: those of a check, a run, and a few stages


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows as long as they may be, and what became of the others.

    Attributes:
        rows: As a trainer takes them.
        counts: Of them and of the others.
        numbers: Of the rows kept, in the table of all rows; none of packed or poisoned ones.
    """

    rows: Dataset
    counts: RowCounts
    numbers: Sequence[int]


Key = tuple[str, int | None, str]
"""train or test, the client, and the poison."""
Store = dict[Key, Prepared]
_STORES: OrderedDict[str, Store] = OrderedDict()


def store_of(recipe: Recipe, data_hash: str, learner: Learner, own: int | None) -> Store:
    """The store of all that decides on tokenised rows; the oldest one beyond `KEPT` is forgotten.

    Args:
        recipe: How rows are dealt and prepared.
        data_hash: Of the rows.
        learner: Its tokenizer prepares them, and its model says how long they may be.
        own: The one client whose rows all are; None: they are dealt to all.
    """
    federation, config = recipe.federation, learner.model.config.get_text_config()
    facts = (
        recipe.model_dump_json(include={"task", "data", "train"}),
        (federation.seed, federation.num_clients, recipe.evaluation.max_rows),
        (data_hash, hash_tokenizer(learner.tokenizer), own),
        getattr(config, "max_position_embeddings", None),
    )
    name = hashlib.sha256(repr(facts).encode()).hexdigest()
    store = _STORES.pop(name, {})
    _STORES[name] = store
    while len(_STORES) > KEPT:
        _STORES.popitem(last=False)
    return store

"""Whose rows are whose: the source, its splits, and each client's rows as a trainer takes them."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import TYPE_CHECKING

from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.training.client_round import Poison, looked_at
from fedtune.training.partitions import Split, deal, hold_out, set_aside
from fedtune.training.sources import hash_rows, load_rows
from fedtune.training.tasks import TASKS, Learner

if TYPE_CHECKING:
    from datasets import Dataset


class ClientData:
    """The rows of a recipe, dealt to its clients.

    Args:
        recipe: Sections data, federation and evaluation.
        learner: Whose tokenizer prepares rows.
        own: The one client whose rows all those of the source are; None: they are dealt to all.
    """

    def __init__(self, recipe: Recipe, learner: Learner, *, own: int | None = None) -> None:
        import datasets

        datasets.disable_progress_bars()
        self.recipe, self.own, self.seed = recipe, own, recipe.federation.seed
        self._task, self._learner = TASKS[recipe.task], learner
        self._train_rows: dict[tuple[int | None, str], Dataset] = {}
        self._test_rows: dict[int | None, Dataset] = {}

    @cached_property
    def rows(self) -> Dataset:
        """All rows of the source."""
        return load_rows(self.recipe.data, self._task, seed=self.seed)

    @cached_property
    def data_hash(self) -> str:
        """SHA-256 over the rows."""
        return hash_rows(self.rows)

    @cached_property
    def schema_hash(self) -> str:
        """SHA-256 over the names and types of the rows' columns: it tells nothing of a row."""
        schema = json.dumps(self.rows.features.to_dict(), sort_keys=True)
        return hashlib.sha256(schema.encode()).hexdigest()

    @cached_property
    def split(self) -> Split:
        """The global split: what is trained on, by clients and server, and what no one sees."""
        everything = list(range(len(self.rows)))
        if self.own is not None:  # what no client sees is the server's
            return Split(everything, [])
        fraction = self.recipe.data.test_fraction
        return hold_out(everything, fraction, seed=derive(self.seed, "held-out"))

    @cached_property
    def _kept_and_left(self) -> tuple[list[int], list[int]]:
        count = 0 if self.own is not None else self.recipe.data.server_rows
        seed = derive(self.seed, "server-rows")
        return set_aside(self.split.train, count, seed=seed)

    @property
    def server_rows(self) -> list[int]:
        """The rows that the server keeps for itself."""
        return self._kept_and_left[0]

    @cached_property
    def parts(self) -> dict[int, Split]:
        """Each client's rows, with its own held out, by client."""
        data, clients = self.recipe.data, self.recipe.federation.num_clients
        left = self._kept_and_left[1]
        if self.own is not None:
            dealt = {self.own: list(range(len(left)))}
        else:
            rows = self.rows.select(left)
            dealt = dict(enumerate(deal(rows, data.partition, clients, seed=self.seed)))
        return {
            client: hold_out(
                [left[i] for i in part],
                data.test_fraction,
                seed=derive(self.seed, "held-out", self.order_of(client)),
            )
            for client, part in dealt.items()
        }

    def order_of(self, client: int | None) -> str | int:
        """What a client's random choices are named by; clients with replicated rows share one."""
        if client is None:
            return "server"
        return "shared" if self.recipe.data.partition.by == "replicate" else client

    def train_rows(self, client: int | None, poison: Poison | None = None) -> Dataset:
        """A client's training rows, tokenized; None: the server's own.

        Args:
            client: Counted from 0.
            poison: What a simulated attacker does to them.

        Raises:
            ValueError: If ``train.max_length`` leaves none.
        """
        from datasets import Dataset

        spoil = poison.spoil if poison else None
        key = (client, poison.key if poison and spoil else "")
        if key not in self._train_rows:
            chosen = self.server_rows if client is None else self.parts[client].train
            rows = looked_at(self.rows.select(chosen), self._task)
            if spoil is not None:
                rows = Dataset.from_list(spoil(rows.to_list()))
            self._train_rows[key] = self._prepare(rows)
        return self._train_rows[key]

    def held_out(self, client: int | None) -> Dataset:
        """A client's held-out rows, tokenized; None: those of the global split.

        Raises:
            ValueError: As `train_rows` does.
        """
        if client not in self._test_rows:
            split = self.split if client is None else self.parts[client]
            chosen = split.test[: self.recipe.evaluation.max_rows]
            rows = looked_at(self.rows.select(chosen), self._task)
            self._test_rows[client] = self._prepare(rows)
        return self._test_rows[client]

    def _prepare(self, rows: Dataset) -> Dataset:
        prepared = self._task.prepare(rows, self._learner)
        if len(prepared) == 0:
            raise ValueError(
                "data.source: max_length leaves no row to train on; raise train.max_length"
            )
        return prepared

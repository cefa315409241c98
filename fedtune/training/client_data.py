"""Whose rows are whose: the source, its splits, and each client's rows as a trainer takes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.training.client_round import Poison, looked_at
from fedtune.training.formats import LIKELY_PROMPTS, flaw_of, kept_columns
from fedtune.training.partitions import Split, deal, hold_out, set_aside
from fedtune.training.row_counts import RowCounts
from fedtune.training.sources import hash_rows, load_rows
from fedtune.training.tasks import TASKS, Learner
from fedtune.training.tasks.task import Known, Task

if TYPE_CHECKING:
    from datasets import Dataset

Spoil = Callable[[list[dict[str, object]]], list[dict[str, object]]]


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
        self._train: dict[tuple[int | None, str], Prepared] = {}
        self._test: dict[int | None, Prepared] = {}

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
            ValueError: If ``train.max_length`` leaves none, or none teaches anything useful.
        """
        key = _key(client, poison)
        if key not in self._train:
            chosen = self.server_rows if client is None else self.parts[client].train
            whose = f"{_named(client)} training rows"
            self._train[key] = self._prepared(chosen, whose, poison.spoil if poison else None)
        return self._train[key].rows

    def drawn(
        self, client: int | None, places: Sequence[int], poison: Poison | None = None
    ) -> Dataset:
        """Some of a client's training rows as a trainer takes them, in the order asked for.

        Where the task has a reference, it is asked about them, and the model holds it afterwards.

        Raises:
            ValueError: As `train_rows` does.
        """
        self.train_rows(client, poison)
        return self._train[_key(client, poison)].drawn(places, self._task, self._learner)

    def held_out(self, client: int | None) -> Dataset:
        """A client's held-out rows as they are measured; None: those of the global split.

        Raises:
            ValueError: As `train_rows` does.
        """
        prepared = self._held_out(client)
        return prepared.drawn(range(len(prepared.rows)), self._task, self._learner)

    def counts(self, client: int | None) -> RowCounts:
        """What preparing made of a client's training rows; None: of the server's own.

        Raises:
            ValueError: As `train_rows` does.
        """
        self.train_rows(client)
        return self._train[_key(client, None)].counts

    def held_out_counts(self, client: int | None) -> RowCounts:
        """The same of the held-out rows that are measured; None: of the global split."""
        return self._held_out(client).counts

    def _held_out(self, client: int | None) -> Prepared:
        if client not in self._test:
            split = self.split if client is None else self.parts[client]
            chosen = split.test[: self.recipe.evaluation.max_rows]
            whose = "the held-out rows" if client is None else f"{_named(client)} held-out rows"
            self._test[client] = self._prepared(chosen, whose, None)
        return self._test[client]

    def _prepared(self, chosen: Sequence[int], whose: str, spoil: Spoil | None) -> Prepared:
        from datasets import Dataset

        rows = looked_at(self.rows.select(chosen), self._task)
        if spoil is not None:
            rows = Dataset.from_list(spoil(rows.to_list()))
        flaws = Counter(filter(None, (flaw_of(row, self._task) for row in rows)))
        if spoil is None and flaws.total() == len(rows) > 0:
            told = ", ".join(f"{flaw} in {count}" for flaw, count in flaws.most_common())
            raise ValueError(
                f"data.source: {whose} teach nothing: {told} of {len(rows)}{self._hint()}"
            )
        try:
            whole = self._task.prepare(rows, self._learner)
        except (KeyError, AttributeError, TypeError, RuntimeError) as error:
            raise ValueError(f"data.source: {whose} cannot be tokenised: {error}") from error
        kept, cut = self._task.fit(whole, self._learner.plan) if self._task.fit else (whole, 0)
        if len(kept) == 0:
            raise ValueError(
                f"data.source: train.max_length leaves none of {len(rows)} of {whose}; raise it"
            )
        return Prepared(kept, RowCounts.of(len(rows), kept, cut=cut, flaws=flaws))

    def _hint(self) -> str:
        """What to write where a column that is not read looks like the prompt."""
        beside = [name for name in LIKELY_PROMPTS if name in self.rows.column_names]
        if not beside or "prompt" in kept_columns(self.rows, self._task):
            return ""
        return f"; write data.columns: {{prompt: {beside[0]}}}"


@dataclass(frozen=True, eq=False)
class Prepared:
    """Rows that are tokenised.

    Attributes:
        rows: As long as they may be.
        counts: What became of the others.
        known: What the reference has said of them, by place.
    """

    rows: Dataset
    counts: RowCounts
    known: Known = field(default_factory=dict)

    def drawn(self, places: Sequence[int], task: Task, learner: Learner) -> Dataset:
        """Some of them, with what the reference makes of them where the task has one."""
        if task.refer is None:
            return self.rows.select(places)
        return task.refer(self.rows, places, learner, self.known)


def _key(client: int | None, poison: Poison | None) -> tuple[int | None, str]:
    return client, poison.key if poison and poison.spoil else ""


def _named(client: int | None) -> str:
    return "the server's" if client is None else f"client {client}'s"

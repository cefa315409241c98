"""Whose rows are whose: the source, its splits, and each client's rows as a trainer takes them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from jinja2 import TemplateError

from fedtune.failing import during, one_line
from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.training.all_rows import AllRows, read_all
from fedtune.training.client_round import Poison, looked_at
from fedtune.training.flaws import NO_LABEL, flaw_of
from fedtune.training.formats import hint_of_prompt
from fedtune.training.odd_rows import first_bad, without_label
from fedtune.training.partitions import Split, deal, hold_out, in_seeded_order, set_aside
from fedtune.training.prepared import Key, Prepared, Store, store_of
from fedtune.training.prompt_ends import count_parted
from fedtune.training.row_counts import RowCounts
from fedtune.training.sources import hash_rows
from fedtune.training.tasks import TASKS, Learner
from fedtune.training.tasks.task import Known
from fedtune.training.turns import hint_of_roles
from fedtune.training.whole_source import REMEDY, of_all_rows

if TYPE_CHECKING:
    from datasets import Dataset

_SAYS_WHY = (TypeError, ValueError, TemplateError)  # by its text alone
Spoil = Callable[[list[dict[str, object]]], list[dict[str, object]]]


class ClientData:
    """The rows of a recipe, dealt to its clients.

    Args:
        recipe: Sections data, federation and evaluation.
        learner: Whose tokenizer prepares rows.
        own: The one client whose rows all those of the source are; None: they are dealt to all.

    Attributes:
        learner: As it was given.
    """

    def __init__(self, recipe: Recipe, learner: Learner, *, own: int | None = None) -> None:
        import datasets

        datasets.disable_progress_bars()
        self.recipe, self.own, self.seed = recipe, own, recipe.federation.seed
        self._task, self.learner = TASKS[recipe.task], learner
        self._known: dict[Key, Known] = {}  # what the reference has said, by place

    @cached_property
    def _all(self) -> AllRows:
        return read_all(self.recipe, self._task)

    @property
    def rows(self) -> Dataset:
        """All rows of the source, and after them those of ``data.eval_source``."""
        return self._all.table

    @property
    def read(self) -> dict[str, int]:
        """How many rows were read of each source, by its key."""
        return self._all.read

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
        dealt, held_out = list(range(len(self._all.places))), self._all.held_out
        if self.own is not None:  # what no client sees is the server's
            return Split(dealt, [])
        seed = derive(self.seed, "held-out")
        if held_out:
            return Split(dealt, in_seeded_order(held_out, seed=seed))
        return hold_out(dealt, self.recipe.data.test_fraction, seed=seed)

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
        parts = {
            client: hold_out(
                [left[i] for i in part],
                data.test_fraction,
                seed=derive(self.seed, "held-out", self.order_of(client)),
            )
            for client, part in dealt.items()
        }
        for client, part in parts.items():
            if not part.train:
                raise ValueError(
                    f"data.partition: client {client} has no row to train on, and "
                    f"{len(part.test)} held out; ask for fewer clients, or lower data.test_fraction"
                )
        return parts

    def order_of(self, client: int | None) -> str | int:
        """What a client's random choices are named by; clients with replicated rows share one."""
        if client is None:
            return "server"
        return "shared" if self.recipe.data.partition.by == "replicate" else client

    def train_rows(self, client: int | None, poison: Poison | None = None) -> Dataset:
        """A client's training rows, tokenized, and packed where that is asked; None: the server's.

        Args:
            client: Counted from 0.
            poison: What a simulated attacker does to them.

        Raises:
            ValueError: If one cannot be tokenised, or ``train.max_length`` leaves none.
        """
        return self._trained(client, poison).rows

    def drawn(
        self, client: int | None, places: Sequence[int], poison: Poison | None = None
    ) -> Dataset:
        """Some of a client's training rows as a trainer takes them, in the order asked for.

        Where the task has a reference, it is asked about them, and the model holds it afterwards.

        Raises:
            ValueError: As `train_rows` does.
        """
        key = _key("train", client, poison)
        return self._referred(key, self._trained(client, poison).rows, places)

    def named(self, client: int | None, places: Sequence[int]) -> str:
        """Some of a client's training rows by number and source; of many the first."""
        numbers = self._trained(client, None).numbers
        if not numbers:
            return f"{len(places)} packed sequences"
        return self._all.several([numbers[place] for place in dict.fromkeys(places)])

    def held_out(self, client: int | None) -> Dataset:
        """A client's held-out rows as they are measured; None: those of the global split.

        Raises:
            ValueError: As `train_rows` does.
        """
        rows = self._held_out(client).rows
        return self._referred(_key("test", client, None), rows, range(len(rows)))

    def counts(self, client: int | None) -> RowCounts:
        """What preparing made of a client's training rows; None: of the server's own.

        Raises:
            ValueError: As `train_rows` does.
        """
        return self._trained(client, None).counts

    def check_use(self, client: int | None) -> None:
        """Refuse training rows none of which teaches anything useful; None: the server's own.

        Raises:
            ValueError: Saying what is wrong with them, and perhaps what to write.
        """
        counts = self.counts(client)
        if sum(counts.flaws.values()) == counts.kept + counts.mute:
            raise self._useless(
                counts.flaws, counts.kept + counts.mute, f"{_named(client)} training rows"
            )

    def held_out_counts(self, client: int | None) -> RowCounts:
        """The same of the held-out rows that are measured; None: of the global split."""
        return self._held_out(client).counts

    @cached_property
    def _store(self) -> Store:
        """Prepared rows, shared by all in this process that would prepare them alike."""
        return store_of(self.recipe, self.data_hash, self.learner, self.own)

    def _referred(self, key: Key, rows: Dataset, places: Sequence[int]) -> Dataset:
        if self._task.refer is None:
            return rows.select(places)
        return self._task.refer(rows, places, self.learner, self._known.setdefault(key, {}))

    def _trained(self, client: int | None, poison: Poison | None) -> Prepared:
        key = _key("train", client, poison)
        if key not in self._store:
            chosen = self.server_rows if client is None else self.parts[client].train
            whose = f"{_named(client)} training rows"
            with during("rows"):
                made = self._prepared(chosen, whose, poison.spoil if poison else None)
                self._store[key] = self._packed(made)
        return self._store[key]

    def _packed(self, made: Prepared) -> Prepared:
        """Training rows as a step takes them; held-out rows are measured one by one."""
        if self._task.pack is None:
            return made
        rows = self._task.pack(made.rows, self.learner)
        if "seq_lengths" not in rows.column_names:
            return made
        return Prepared(rows, replace(made.counts, packed=len(rows)), [])

    def _held_out(self, client: int | None) -> Prepared:
        key = _key("test", client, None)
        if key not in self._store:
            split = self.split if client is None else self.parts[client]
            chosen = split.test[: self.recipe.evaluation.max_rows]
            whose = "the held-out rows" if client is None else f"{_named(client)} held-out rows"
            with during("rows"):
                self._store[key] = self._prepared(chosen, whose, None)
        return self._store[key]

    def _prepared(self, chosen: Sequence[int], whose: str, spoil: Spoil | None) -> Prepared:
        from datasets import Dataset

        rows = looked_at(self.rows.select(chosen), self._task)
        if spoil is not None:
            rows = Dataset.from_list(spoil(rows.to_list()))
        try:
            whole = self._task.prepare(rows, self.learner)
        except MemoryError:
            raise
        except Exception as error:  # whatever tokenizers, templates and TRL raise of a row
            if str(error).startswith(("data.", "train.")):  # of all rows, and in our words
                raise
            if of_all := of_all_rows(error, rows, self.learner):
                raise ValueError(of_all) from error
            place, why = first_bad(self._task, rows, self.learner, error)
            row = self._all.named(chosen[place]) if spoil is None else "data.source: one"
            folds = self.recipe.data.system == "fold"
            asks = "system" in str(why).lower() and not folds
            hint = "; write data.system: fold" if asks else hint_of_roles(self.rows)
            said = str(why) if isinstance(why, _SAYS_WHY) else one_line(why)
            raise ValueError(f"{row}, of {whose}, cannot be tokenised: {said}{hint}") from why
        places, kept, cut = self._task.fit(whole, self.learner)
        trained = rows.select(places) if 0 < len(places) < len(rows) else rows
        flaws = Counter(filter(None, (flaw_of(row, self._task) for row in trained)))
        mute = without_label(whole, sorted({*range(len(rows))} - {*places}))
        if len(kept) > 0:  # else all rows are among those looked at
            flaws.update(flaw_of(rows[at], self._task) or NO_LABEL for at in mute)
        if len(kept) == 0:
            if flaws.total() == len(rows):
                raise self._useless(flaws, len(rows), whose)
            key, remedy = self._task.bound
            raise ValueError(f"data.source: {key} leaves none of {len(rows)} of {whose}; {remedy}")
        parted = count_parted(trained, whole.select(places), self._task, self.learner)
        counts = RowCounts.of(len(rows), kept, cut=cut, flaws=flaws, mute=len(mute), parted=parted)
        numbers = [chosen[place] for place in places] if spoil is None else []
        return Prepared(kept, counts, numbers)

    def _useless(self, flaws: Mapping[str, int], rows: int, whose: str) -> ValueError:
        told = ", ".join(f"{flaw} in {count}" for flaw, count in flaws.items())
        hint = hint_of_prompt(self.rows, self._task) or hint_of_roles(self.rows) or REMEDY
        return ValueError(f"data.source: {whose} teach nothing: {told} of {rows}{hint}")


def _key(part: str, client: int | None, poison: Poison | None) -> Key:
    return part, client, poison.key if poison and poison.spoil else ""


def _named(client: int | None) -> str:
    return "the server's" if client is None else f"client {client}'s"

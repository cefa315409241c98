"""One process's base model, adapter and data, shared by every client that runs there."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fedtune.adapters import lora
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import cut, narrow, widen
from fedtune.origin import made_by
from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.training import inner_state, memo
from fedtune.training.backdoor import Plant, backdoor_success, plant_prompts
from fedtune.training.base import load_base
from fedtune.training.client_round import Poison, Trained, looked_at
from fedtune.training.partitions import Split, deal, hold_out, set_aside
from fedtune.training.plan import Plan, draw_rows
from fedtune.training.sources import hash_rows, load_rows
from fedtune.training.starting import price, start_of
from fedtune.training.tasks import TASKS, Figures, Learner, Shown
from fedtune.training.tasks.running import run_steps

if TYPE_CHECKING:
    from datasets import Dataset

# Sections of a recipe that a worker never looks at.
UNSEEN = {"aggregator", "attack", "defence", "outer", "output_dir", "report_to"}


class Worker:
    """The base is loaded once; a client-round writes the anchor, trains, and reads the delta.

    All rows of the source are those of the client ``own``; None: they are dealt to all clients.
    """

    def __init__(self, recipe: Recipe, *, own: int | None = None) -> None:
        import datasets

        torch.set_num_threads(recipe.federation.threads_per_client)
        datasets.disable_progress_bars()
        self.recipe = recipe
        self.own = own
        self.seed = recipe.federation.seed
        self.task = TASKS[recipe.task]
        self.base = load_base(
            recipe.model, peft_type=self.task.peft_type, seed=derive(self.seed, "head")
        )
        self.plan = Plan.of(recipe, self.base.device, self.base.dtype)
        self.model = lora.attach(
            self.base.model, recipe.lora, task_type=self.task.peft_type,
            seed=derive(self.seed, "lora"),
        )  # fmt: skip
        fresh = lora.read(self.model)
        self.layout = Layout.of(fresh)
        start, reference = start_of(recipe, self.model, fresh)
        self.initial = self.layout.flatten(start)
        self.learner = Learner(self.model, self.base.tokenizer, self.plan, reference, price(recipe))
        self._train_rows: dict[tuple[int | None, str], Dataset] = {}
        self._test_rows: dict[int | None, Dataset] = {}
        # Every Trainer collects garbage; what was imported is never garbage (0.26 of 0.82 CPU s).
        gc.collect()
        gc.freeze()

    @cached_property
    def base_hash(self) -> str:
        """SHA-256 of what no one changes: the base and, where there are any, what judges it.

        That is the reference of a policy, and the models among its rewards.
        """
        if not self.task.uses_reference:
            return self.base.base_hash
        row = self.layout.flatten(dict(self.learner.reference))
        judges = "".join(reward.digest for reward in self.learner.rewards)
        facts = (self.base.base_hash + judges).encode() + row.numpy().tobytes()
        return hashlib.sha256(facts).hexdigest()

    @cached_property
    def rows(self) -> Dataset:
        """All rows of the source."""
        return load_rows(self.recipe.data, self.task, seed=self.seed)

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
                seed=derive(self.seed, "held-out", self._order(client)),
            )
            for client, part in dealt.items()
        }

    def layout_of(self, client: int | None) -> Layout:
        """The layout of a client's own adapter, perhaps of a lower rank; None: the server's."""
        rank = self.recipe.lora.r if client is None else self.recipe.lora.rank_of(client)
        return self.layout if rank == self.recipe.lora.r else narrow(self.layout, rank)

    def part(self, client: int | None, round_: int) -> Part:
        """What a client, or None: the server, trains in a round, counted from 1."""
        return Part.of_round(self.layout_of(client), self.recipe.lora.train, round_)

    def train(
        self,
        anchor: Tensor,
        *,
        client: int | None,
        round_: int,
        try_: int = 0,
        poison: Poison | None = None,
        state_folder: Path | None = None,
    ) -> Trained:
        """Run one client's local steps from the anchor, or recall them (memo.py).

        Args:
            anchor: The adapter that the client received, a float32 row of its own layout.
            client: Which client, from 0; None: the server itself, on the rows that it keeps.
            round_: Which round, from 1.
            try_: Which try of it, from 0; another one has other seeds.
            poison: What a Byzantine client does to its rows, once, or to its rewards.
            state_folder: Where the client keeps its optimizer's state, if the recipe keeps it.
        """
        kept = state_folder if self.recipe.federation.inner_optimizer == "keep" else None
        if kept is not None or (memory := memo.current()) is None:
            return self._train(anchor, client, round_, try_, poison, kept)
        facts = f"{self._facts}\ntry {try_}" if try_ else self._facts
        key = memo.key_of(facts, anchor, client, round_, poison.key if poison else "")
        found = memory.recall(key)
        if found is None:
            trained = self._train(anchor, client, round_, try_, poison, None)
            memory.store(key, trained.delta, trained.train_loss, trained.figures)
            return trained
        return Trained(*found)

    def _train(
        self,
        anchor: Tensor,
        client: int | None,
        round_: int,
        try_: int,
        poison: Poison | None,
        kept: Path | None,
    ) -> Trained:
        rows = self._client_rows(client, poison)
        order = self._order(client)
        needed = self.task.rows_per_round(self.plan)
        seed = derive(self.seed, round_, try_) if try_ else self.seed
        drawn = draw_rows(needed, len(rows), seed=seed, order=order, round_=round_)
        part = self.part(client, round_)
        lora.write(self.model, self.layout.unflatten(widen(anchor, part.whole, self.layout)))
        folder = kept / part.name if kept else None  # moments are numbered by what is trained
        state = inner_state.load(folder, before=round_) if folder else None
        with lora.training_only(self.model, part):
            steps = run_steps(
                self.task,
                rows.select(drawn),
                self._learner(poison),
                first_step=(round_ - 1) * self.plan.local_steps,
                seed=derive(seed, "dropout", order, round_),
                optimizer_state=state,
                mislead=poison.mislead if poison else None,
            )
        if folder:
            inner_state.save(
                steps.optimizer_state, folder, round_=round_, keep=self.recipe.checkpoint.keep + 1
            )
        local = cut(self.layout.flatten(lora.read(self.model)), self.layout, part.whole)
        return Trained(part.take(local - anchor), steps.loss, steps.figures)

    @cached_property
    def _facts(self) -> str:
        """All that decides on a client-round beside anchor, client, round and poison."""
        recipe = self.recipe.model_dump_json(exclude=UNSEEN | {"evaluation", "checkpoint"})
        where = f"{self.base.device} {self.base.dtype}"
        return "\n".join((recipe, self.base_hash, self.data_hash, where, made_by()))

    def measure(self, row: Tensor, *, client: int | None = None) -> Figures:
        """Held-out figures of an adapter: of the global split, or of one client's own rows.

        Args:
            row: A float32 row of the whole layout, or with ``client`` of the client's own.
            client: Whose rows.
        """
        layout = self.layout if client is None else self.layout_of(client)
        return self._measure(widen(row, layout, self.layout), self._held_out(client))

    def server_loss(self, row: Tensor) -> float:
        """Loss of an adapter, a float32 row of the whole layout, on the rows the server keeps."""
        return self._measure(row, self._client_rows(None, None)).loss

    def loss_on_rows_of(self, clients: Sequence[int], row: Tensor, *, each: int) -> float:
        """Mean loss of an adapter, a float32 row of the whole layout, on some rows of each client.

        Args:
            clients: Whose rows, those that they train on.
            row: The adapter.
            each: How many of each, the first ones.
        """
        losses = []
        for client in clients:
            rows = self._client_rows(client, None)
            losses.append(self._measure(row, rows.select(range(min(each, len(rows))))).loss)
        return sum(losses) / len(losses)

    def _measure(self, row: Tensor, rows: Dataset) -> Figures:
        lora.write(self.model, self.layout.unflatten(row))  # after the rows: to prepare them writes
        return self.task.measure(rows, self.learner, batch_size=self.recipe.evaluation.batch_size)

    def backdoor_success(self, row: Tensor, *, plant: Plant, target: str) -> float:
        """Share of held-out prompts that, with a trigger in them, are answered with the target.

        Args:
            row: A float32 row of the whole layout.
            plant: Puts the trigger into the prompt of a data row.
            target: The text.
        """
        section, tokenizer = self.recipe.evaluation, self.base.tokenizer
        rows = looked_at(self.rows.select(self.split.test[: section.backdoor_rows]), self.task)
        prompts = plant_prompts(rows.to_list(), self.learner, plant=plant, target=target)
        lora.write(self.model, self.layout.unflatten(row))
        return backdoor_success(
            prompts, self.model, tokenizer, target=target, batch_size=section.batch_size
        )

    def samples(self, row: Tensor) -> list[Shown]:
        """The first held-out rows, and what the model makes of them under an adapter."""
        section = self.recipe.evaluation
        rows = self._held_out(None)
        rows = rows.select(range(min(section.samples, len(rows))))
        lora.write(self.model, self.layout.unflatten(row))
        return self.task.show(rows, self.learner, max_new_tokens=section.max_new_tokens)

    def save_adapter(self, row: Tensor, folder: Path) -> None:
        """Write an adapter as a plain PEFT folder."""
        lora.write(self.model, self.layout.unflatten(row))
        lora.save(self.model, folder)

    def load_adapter(self, folder: Path) -> Tensor:
        """Read a plain PEFT folder as a row.

        Raises:
            ValueError: If its tensors are not those of this recipe's adapter.
        """
        return self.layout.flatten(lora.load(self.model, folder))

    def _order(self, client: int | None) -> str | int:
        if client is None:
            return "server"
        return "shared" if self.recipe.data.partition.by == "replicate" else client

    def _learner(self, poison: Poison | None) -> Learner:
        """What learns: with rewards of its own, where a poison changes them."""
        if poison is None or poison.reprice is None:
            return self.learner
        return replace(self.learner, rewards=poison.reprice(self.learner.rewards))

    def _client_rows(self, client: int | None, poison: Poison | None) -> Dataset:
        from datasets import Dataset

        spoil = poison.spoil if poison else None
        key = (client, poison.key if poison and spoil else "")
        if key not in self._train_rows:
            chosen = self.server_rows if client is None else self.parts[client].train
            rows = looked_at(self.rows.select(chosen), self.task)
            if spoil is not None:
                rows = Dataset.from_list(spoil(rows.to_list()))
            self._train_rows[key] = self._prepare(rows)
        return self._train_rows[key]

    def _held_out(self, client: int | None) -> Dataset:
        if client not in self._test_rows:
            split = self.split if client is None else self.parts[client]
            chosen = split.test[: self.recipe.evaluation.max_rows]
            rows = looked_at(self.rows.select(chosen), self.task)
            self._test_rows[client] = self._prepare(rows)
        return self._test_rows[client]

    def _prepare(self, rows: Dataset) -> Dataset:
        prepared = self.task.prepare(rows, self.learner)
        if len(prepared) == 0:
            raise ValueError(
                "data.source: max_length leaves no row to train on; raise train.max_length"
            )
        return prepared

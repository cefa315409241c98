"""The base model of a process with the recipe's adapter on it: what is loaded once."""

from __future__ import annotations

import gc
import hashlib
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from fedtune.adapters import lora
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import narrow
from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.training.base import load_base
from fedtune.training.packing import check_apart
from fedtune.training.plan import Plan
from fedtune.training.starting import price, start_of
from fedtune.training.tasks import TASKS, Learner


class LoadedModel:
    """Base, adapter and learner of a recipe.

    Attributes:
        base: The base model with its tokenizer.
        model: The same with the adapter attached.
        layout: Of the adapter.
        initial: The adapter that round 1 starts from, a float32 row.
        learner: What a task trains and measures.
    """

    def __init__(self, recipe: Recipe) -> None:
        torch.set_num_threads(recipe.federation.threads_per_client)
        self.recipe, self.seed = recipe, recipe.federation.seed
        self.task = TASKS[recipe.task]
        kind = self.task.peft_type
        self.base = load_base(recipe.model, peft_type=kind, seed=derive(self.seed, "head"))
        self.plan = Plan.of(recipe, self.base.device, self.base.dtype)
        if self.task.pack is not None:
            check_apart(self.base.model, self.plan.train)
        seed = derive(self.seed, "lora")
        self.model = lora.attach(self.base.model, recipe.lora, task_type=kind, seed=seed)
        fresh = lora.read(self.model)
        self.layout = Layout.of(fresh)
        start, reference = start_of(recipe, self.model, fresh)
        self.initial = self.layout.flatten(start)
        self.learner = Learner(self.model, self.base.tokenizer, self.plan, reference, price(recipe))
        # Every Trainer collects garbage; what was imported is never garbage (0.26 of 0.82 CPU s).
        gc.collect()
        gc.freeze()

    def handle(self) -> LoadedModel:
        """Another handle on the same model.

        What holds it does not hold this one: a cycle would keep a base in memory until the next
        collection, which a frozen heap makes rare.
        """
        made = object.__new__(LoadedModel)
        made.__dict__.update(self.__dict__)
        return made

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

    def layout_of(self, client: int | None) -> Layout:
        """The layout of a client's own adapter, perhaps of a lower rank; None: the server's."""
        rank = self.recipe.lora.r if client is None else self.recipe.lora.rank_of(client)
        return self.layout if rank == self.recipe.lora.r else narrow(self.layout, rank)

    def part(self, client: int | None, round_: int) -> Part:
        """What a client, or None: the server, trains in a round, counted from 1."""
        return Part.of_round(self.layout_of(client), self.recipe.lora.train, round_)

    def write(self, row: Tensor) -> None:
        """Put an adapter, a float32 row of the whole layout, into the model."""
        lora.write(self.model, self.layout.unflatten(row))

    def read(self) -> Tensor:
        """The adapter that is in the model, as a row of the whole layout."""
        return self.layout.flatten(lora.read(self.model))

    def save_adapter(self, row: Tensor, folder: Path) -> None:
        """Write an adapter as a plain PEFT folder."""
        self.write(row)
        lora.save(self.model, folder)

    def load_adapter(self, folder: Path) -> Tensor:
        """Read a plain PEFT folder as a row.

        Raises:
            ValueError: If its tensors are not those of this recipe's adapter.
        """
        return self.layout.flatten(lora.load(self.model, folder))

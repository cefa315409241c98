"""A client's local steps: from the anchor to its update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from torch import Tensor

from fedtune.adapters import lora
from fedtune.adapters.ranks import cut, widen
from fedtune.origin import made_by
from fedtune.seeds import derive
from fedtune.training import inner_state, memo
from fedtune.training.client_data import ClientData
from fedtune.training.client_round import Poison, Trained
from fedtune.training.loaded import LoadedModel
from fedtune.training.plan import Plan, draw_rows
from fedtune.training.tasks import Learner
from fedtune.training.tasks.running import FAILED_STEP, run_steps

# Sections of a recipe that nothing in a process of clients looks at.
UNSEEN = {"aggregator", "attack", "defence", "outer", "output_dir", "report_to"}


class LocalTrainer:
    """Runs the local steps of any client of a recipe.

    Args:
        loaded: The model.
        data: The rows.
    """

    def __init__(self, loaded: LoadedModel, data: ClientData) -> None:
        self.loaded, self._data = loaded, data
        self._recipe, self._seed = loaded.recipe, loaded.seed

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
        kept = state_folder if self._recipe.federation.inner_optimizer == "keep" else None
        if kept is not None or (memory := memo.current()) is None:
            return self._train(anchor, client, round_, try_, poison, kept)
        facts = f"{self.facts}\ntry {try_}" if try_ else self.facts
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
        loaded = self.loaded
        rows = self._data.train_rows(client, poison)
        if poison is None:
            self._data.check_use(client)
        plan = loaded.learner.plan.counted(len(rows), loaded.task.steps_for)
        order = self._data.order_of(client)
        needed = loaded.task.rows_per_round(plan)
        seed = derive(self._seed, round_, try_) if try_ else self._seed
        drawn = draw_rows(needed, len(rows), seed=seed, order=order, round_=round_)
        part = loaded.part(client, round_)
        chosen = self._data.drawn(client, drawn, poison)  # before the anchor: a reference writes
        loaded.write(widen(anchor, part.whole, loaded.layout))
        folder = kept / part.name if kept else None  # moments are numbered by what is trained
        state = inner_state.load(folder, before=round_) if folder else None
        with lora.training_only(loaded.model, part), self._with_rows(client, drawn, plan, poison):
            steps = run_steps(
                loaded.task,
                chosen,
                self._learner(poison, plan),
                first_step=(round_ - 1) * plan.local_steps,
                seed=derive(seed, "dropout", order, round_),
                optimizer_state=state,
                mislead=poison.mislead if poison else None,
            )
        if folder:
            keep = self._recipe.checkpoint.keep + 1
            inner_state.save(steps.optimizer_state, folder, round_=round_, keep=keep)
        local = cut(loaded.read(), loaded.layout, part.whole)
        return Trained(part.take(local - anchor), steps.loss, steps.figures)

    @contextmanager
    def _with_rows(
        self, client: int | None, drawn: Sequence[int], plan: Plan, poison: Poison | None
    ) -> Iterator[None]:
        """Have an error of a local step say which rows the step was on; a poison's are its own."""
        try:
            yield
        except Exception as error:
            step = error.__dict__.get(FAILED_STEP)
            if step is not None and (poison is None or poison.spoil is None):
                each = len(drawn) // plan.local_steps
                seen = drawn[step * each : (step + 1) * each] if each else drawn
                error.add_note(f"on {self._data.named(client, seen or drawn)}")
            raise

    @cached_property
    def facts(self) -> str:
        """All that decides on a client-round beside anchor, client, round and poison."""
        recipe = self._recipe.model_dump_json(exclude=UNSEEN | {"evaluation", "checkpoint"})
        where = f"{self.loaded.base.device} {self.loaded.base.dtype}"
        hashes = (self.loaded.base_hash, self._data.data_hash)
        return "\n".join((recipe, *hashes, where, made_by()))

    def _learner(self, poison: Poison | None, plan: Plan) -> Learner:
        """The learner under a client's plan; with other rewards, where a poison changes them."""
        learner = replace(self.loaded.learner, plan=plan)
        if poison is None or poison.reprice is None:
            return learner
        return replace(learner, rewards=poison.reprice(learner.rewards))

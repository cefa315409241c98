"""The Flower ServerApp: the whole run, round after round, from a checkpoint or from nothing."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.messages.wire import hash_row
from fedtune.recipe import Recipe
from fedtune.recipe.leaving import leaving
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.records.events import (
    Observer,
    RoundFinished,
    RunStarted,
    RunStoppedError,
    ignore,
)
from fedtune.records.folder import RunFolder, hash_recipe, write_whole
from fedtune.records.journal import Journal
from fedtune.records.sent import binding_words
from fedtune.records.signed_chain import sign
from fedtune.round.attendance import Attendance
from fedtune.round.defence.standing import counts_of
from fedtune.round.defence.vote import undone_rounds
from fedtune.round.roster import Roster, call_the_roll
from fedtune.round.screening.kept_replies import KEPT, KeptReplies
from fedtune.round.strategy import RobustStrategy
from fedtune.runs.evaluation import judge
from fedtune.runs.manifest import manifest_of
from fedtune.runs.resuming import refuse_another_state
from fedtune.runs.trackers import Trackers
from fedtune.simulation.poisoning import poison_of
from fedtune.simulation.training_ahead import Tools
from fedtune.training.process import get_worker
from fedtune.training.worker import Worker

ROWS_OF_A_TRIAL = 32  # of each simulated attacker, where it tries an update on its own rows


@dataclass
class Run:
    """One run of a recipe in a folder; `app` makes the ServerApp that Flower drives."""

    recipe: Recipe
    folder: RunFolder
    observer: Observer = ignore
    stop: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def app(self) -> ServerApp:
        """The ServerApp of this run. What it raises is kept in `error` too."""
        app = ServerApp()

        @app.main()
        def main(grid: Grid, context: Context) -> None:
            try:
                self.serve(grid)
            except BaseException as error:
                self.error = error
                raise

        return app

    def serve(self, grid: Grid) -> None:
        """Run all rounds that are left.

        Raises:
            RunStoppedError: If a round could not be completed; the last checkpoint is valid.
        """
        with Journal(self.folder.path, self.observer) as observer:
            replace(self, observer=observer)._serve(grid)

    def _serve(self, grid: Grid) -> None:
        worker = get_worker(self.recipe.model_dump_json())
        recipe_json = self._as_it_travels()
        strategy, done = self._restore(worker, recipe_json)
        if done == 0 and not self.folder.read_metrics():
            self._begin(worker, strategy)
        agreement = wire.Agreement(worker.base_hash, worker.base.tokenizer_hash, "")
        strategy.roster = call_the_roll(
            grid,
            self.recipe,
            recipe_json=recipe_json,
            agreement=agreement,
            stop=self.stop,
            observer=self.observer,
        )
        attendance = Attendance(grid, self.recipe, recipe_json, agreement, strategy.roster)
        history = self.folder.read_metrics()
        self.observer(RunStarted(history))
        with Trackers(self.recipe) as trackers:
            if done == 0:
                trackers.log(history[0])
            for server_round in range(done + 1, self.recipe.federation.num_rounds + 1):
                if self.stop.is_set():
                    raise RunStoppedError("interrupted")
                strategy.roster = attendance.look()
                self._note_rows(strategy.roster)
                self._round(grid, worker, strategy, server_round)
                trackers.log(strategy.record)
                self.observer(RoundFinished(strategy.record))
        strategy.tries.close()
        anchor = strategy.outer.anchor
        self.folder.replace_adapter(lambda path: worker.save_adapter(anchor, path))
        self._write_samples(worker, anchor)

    def _as_it_travels(self) -> str:
        """The recipe in each order: clients on this machine find the folders that it names."""
        far = self.recipe.federation.deployment is not None
        return (leaving(self.recipe) if far else self.recipe).model_dump_json()

    def _restore(self, worker: Worker, recipe_json: str) -> tuple[RobustStrategy, int]:
        """The strategy as the newest checkpoint left it, and the rounds that are done."""
        checkpoint = load_latest(self.folder.checkpoints)
        if checkpoint is not None:
            self._refuse_other_inputs(worker)
            if checkpoint.layout_hash != worker.layout.hash:
                raise RunStoppedError(
                    f"{self.folder.checkpoints} holds another adapter than this recipe's: "
                    f"the model or the lora section has changed; start a new run",
                    resumable=False,
                )
        strategy = RobustStrategy(
            self.recipe,
            worker.layout,
            worker.initial if checkpoint is None else checkpoint.anchor,
            recipe_json=recipe_json,
            base_hash=worker.base_hash,
            tokenizer_hash=worker.base.tokenizer_hash,
            train_own=lambda anchor, round_: worker.train(anchor, client=None, round_=round_),
            loss_of=worker.server_loss,
            tools=_tools(self.recipe, worker),
            folder=self.folder.path,
            observer=self.observer,
            stop=self.stop,
        )
        if self.recipe.federation.keep_replies:
            strategy.intake.kept = KeptReplies(self.folder.path / KEPT)
        if checkpoint is None:
            self.folder.truncate_metrics(0)
            return strategy, 0
        strategy.outer.load_state(checkpoint.outer)
        strategy.combiner.state = checkpoint.rule
        strategy.intake.adversary.memory = checkpoint.attack
        self.folder.truncate_metrics(checkpoint.metrics_bytes)
        self._mend_metrics(worker, strategy, checkpoint.round)
        records = self.folder.read_metrics()
        refuse_another_state(self.folder, checkpoint, records[-1], worker.layout)
        strategy.counts, strategy.undone_rounds = counts_of(records), undone_rounds(records)
        return strategy, checkpoint.round

    def _mend_metrics(self, worker: Worker, strategy: RobustStrategy, done: int) -> None:
        """Measure the checkpoint's round again if someone has cut its line off."""
        recorded = [record["round"] for record in self.folder.read_metrics()]
        if 0 not in recorded:
            self.folder.truncate_metrics(0)
            self._measure_again(worker, worker.initial, 0)
            recorded = [0]
        if recorded[-1] != done:
            self._measure_again(worker, strategy.outer.anchor, done)

    def _measure_again(self, worker: Worker, anchor: torch.Tensor, round_: int) -> None:
        measured = judge(self.recipe, worker, anchor)
        line = {"round": round_, "eval": measured, "measured_again": True}
        self.folder.append_metrics({**line, "next_anchor": hash_row(anchor, worker.layout)})

    def _inputs(self, worker: Worker) -> dict[str, str]:
        """Hashes of everything that a resumed run must find as it was."""
        inputs = {
            "recipe_hash": hash_recipe(self.recipe),
            "base_hash": worker.base_hash,
            "tokenizer_hash": worker.base.tokenizer_hash,
            "data_hash": worker.data_hash,
        }
        if self.recipe.initial_adapter is not None:
            row = worker.initial.numpy().tobytes()
            inputs["initial_adapter_hash"] = hashlib.sha256(row).hexdigest()
        return inputs

    def _refuse_other_inputs(self, worker: Worker) -> None:
        began_with = self.folder.read_manifest()
        for name, now in self._inputs(worker).items():
            if began_with.get(name, now) != now:
                what = name.removesuffix("_hash").replace("_", " ")
                raise RunStoppedError(
                    f"the {what} is no longer the one that {self.folder.path} began with; "
                    f"bring it back, or start a new run",
                    resumable=False,
                )

    def _begin(self, worker: Worker, strategy: RobustStrategy) -> None:
        """Measure the base, and save everything with which round 1 begins."""
        self.folder.write_manifest(manifest_of(self.recipe, worker, self._inputs(worker)))
        strategy.record = {"round": 0, "eval": judge(self.recipe, worker, strategy.outer.anchor)}
        self._save(strategy, 0)

    def _round(
        self, grid: Grid, worker: Worker, strategy: RobustStrategy, server_round: int
    ) -> None:
        started = time.monotonic()
        strategy.post.binding = binding_words(self.folder.manifest_hash(), self.folder.head())
        per_client, before = self.recipe.evaluation.per_client, None
        if server_round == 1 and per_client:
            before = strategy.evaluate_start(grid)
        if not strategy.run_round(grid, server_round):
            raise RunStoppedError(self._too_few(strategy, server_round))
        if before is not None:
            strategy.record["client_eval_before"] = before
        last = server_round == self.recipe.federation.num_rounds
        if last or server_round % self.recipe.evaluation.every == 0:
            strategy.record["eval"] = judge(self.recipe, worker, strategy.outer.anchor)
        if last and per_client:
            strategy.evaluate_clients(grid, server_round)
        strategy.record["round_s"] = round(time.monotonic() - started, 3)
        self._save(strategy, server_round)

    def _save(self, strategy: RobustStrategy, server_round: int) -> None:
        """Record the round, then the checkpoint that says how far the records are good.

        Where the step is judged, it has been by now: `round.acceptance.settle` says why not before.
        """
        parts: dict[str, Any] = {
            "round": server_round,
            "anchor": strategy.outer.anchor,
            "outer": strategy.outer.state(),
            "rule": strategy.combiner.state,
            "attack": strategy.intake.adversary.memory,
            "layout_hash": strategy.layout.hash,
        }
        strategy.record["revision"] = Checkpoint(**parts, metrics_bytes=0).revision
        strategy.record["next_anchor"] = hash_row(parts["anchor"], strategy.layout)
        if strategy.intake.kept is not None:
            strategy.intake.kept.put_anchor(server_round, parts["anchor"], strategy.layout)
        self.folder.append_metrics(strategy.record)
        self._sign()
        checkpoint = Checkpoint(**parts, metrics_bytes=self.folder.metrics_bytes())
        checkpoint.save(self.folder.checkpoints, keep=self.recipe.checkpoint.keep)

    def _note_rows(self, roster: Roster) -> None:
        """Note what each node says of its rows, where those are its own; it moves nothing."""
        if self.recipe.federation.deployment is None:
            return
        text = json.dumps({client: roster.said[client] for client in sorted(roster.said)}, indent=2)
        path = self.folder.path / "clients.json"
        if not path.is_file() or path.read_text(encoding="utf-8") != text + "\n":
            write_whole(path, text + "\n")

    def _sign(self) -> None:
        """Sign the record so far, where the server has a key that the nodes know."""
        if self.recipe.federation.deployment is not None:
            there = DeploymentFolder.open(self.recipe.federation.deployment)
            sign(self.folder, there.server_certificate, there.server_key)

    def _too_few(self, strategy: RobustStrategy, server_round: int) -> str:
        tries = self.recipe.federation.max_retries + 1
        refused: dict[str, Any] = strategy.record["refused"]
        reasons = "; ".join(f"client {client}: {reason}" for client, reason in refused.items())
        return (
            f"round {server_round} got too few good replies in {tries} tries: "
            f"{strategy.objection()}. "
            f"{reasons or 'no client was refused'}"
        )

    def _write_samples(self, worker: Worker, anchor: torch.Tensor) -> None:
        if self.recipe.evaluation.samples == 0:
            return
        before, after = worker.samples(worker.initial), worker.samples(anchor)
        lines = [
            {"prompt": old.prompt, "truth": old.truth, "before": old.completion,
             "after": new.completion}
            for old, new in zip(before, after, strict=True)
        ]  # fmt: skip
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        write_whole(self.folder.path / "samples.jsonl", text)


def _tools(recipe: Recipe, worker: Worker) -> Tools:
    """What simulated attackers do with the model on their own rows."""

    def train(anchor: torch.Tensor, client: int, round_: int) -> torch.Tensor:
        poison = poison_of(recipe, client, round_)
        return worker.train(anchor, client=client, round_=round_, poison=poison).delta

    return Tools(train, partial(worker.loss_on_rows_of, each=ROWS_OF_A_TRIAL))

"""The whole run, round after round, from a checkpoint or from nothing."""

from __future__ import annotations

import hashlib
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.messages.transport import Transport
from fedtune.messages.wire import hash_row
from fedtune.node.sent_log import binding_words
from fedtune.recipe import Recipe
from fedtune.recipe.hashing import hash_recipe
from fedtune.recipe.leaving import leaving
from fedtune.records.best import is_exhausted
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.records.event_log import EventLog
from fedtune.records.events import (
    Observer,
    RoundFinished,
    RunStarted,
    RunStoppedError,
    ignore,
)
from fedtune.records.failures import Failures
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.records.signed_chain import sign
from fedtune.records.told_rows import write_told
from fedtune.round.attendance import Attendance
from fedtune.round.defence.standing import counts_of
from fedtune.round.defence.vote import undone_rounds
from fedtune.round.roster import Roster, identify_clients
from fedtune.round.screening.kept_replies import KEPT, KeptReplies
from fedtune.round.server import RoundServer
from fedtune.round.state import State
from fedtune.runs.evaluation import judge
from fedtune.runs.manifest import manifest_of
from fedtune.runs.model_card import leave_adapter
from fedtune.runs.noting import Noting
from fedtune.runs.resuming import refuse_another_place, refuse_another_state, refuse_no_product
from fedtune.runs.samples import write_samples
from fedtune.runs.tools import tools_of
from fedtune.runs.trackers import Trackers
from fedtune.runs.watched import measure_round
from fedtune.simulation.hooks import SimulatedAttack
from fedtune.training.process import get_worker
from fedtune.training.worker import Worker

_TOLD = 6  # clients that are named where a round got too few replies


@dataclass
class Run:
    """One run of a recipe in a folder, on any transport; ``doing`` says what it is at."""

    recipe: Recipe
    folder: RunFolder
    observer: Observer = ignore
    stop: threading.Event = field(default_factory=threading.Event)
    doing: str = "loading the model"

    def serve(self, transport: Transport) -> None:
        """Run all rounds that are left.

        Raises:
            RunStoppedError: If a round could not be completed; the last checkpoint is valid.
            ValueError, OSError: Of the recipe, its rows or files, by key.
        """
        far = self.recipe.federation.engine == "superlink"
        failures = Failures(self.folder.path)
        with EventLog(self.folder.path, self.observer, whole=far) as observer:
            run = replace(self, observer=observer)
            with failures.stopping(lambda: run.doing):
                run._serve(transport if far else Noting(transport, failures))

    def _serve(self, transport: Transport) -> None:
        worker = get_worker(self.recipe.model_dump_json())
        refuse_no_product(self.recipe, worker)
        recipe_json = self._as_it_travels()
        server, done = self._restore(worker, recipe_json)
        if done == 0 and not self.folder.read_records():
            self.doing = "measuring the base"
            self._begin(worker, server)
        agreement = wire.Agreement(worker.base_hash, worker.base.tokenizer_hash, "")
        self.doing = "asking the clients who they are"
        server.roster = identify_clients(
            transport,
            self.recipe,
            recipe_json=recipe_json,
            agreement=agreement,
            stop=self.stop,
            observer=self.observer,
        )
        attendance = Attendance(transport, self.recipe, recipe_json, agreement, server.roster)
        history = self.folder.read_records()
        self.observer(RunStarted(history))
        with Trackers(self.recipe, self.folder.read_manifest().client_names) as trackers:
            if done == 0:
                trackers.log(history[0])
            for round_ in range(done + 1, self.recipe.federation.num_rounds + 1):
                if is_exhausted(history, self.recipe.evaluation):
                    break
                if self.stop.is_set():
                    raise RunStoppedError("interrupted")
                self.doing = f"round {round_}"
                server.roster = attendance.look()
                self._note_rows(server.roster)
                record = self._round(transport, worker, server, round_)
                self.doing = f"round {round_} is done, telling the trackers"
                trackers.log(record)
                self.observer(RoundFinished(record))
                history.append(record)
        self.doing = "after the last round, writing the adapter"
        server.tries.close()
        anchor = server.outer.anchor
        self.folder.replace_adapter(
            partial(leave_adapter, worker, self.folder.read_records(), anchor)
        )
        self.doing = "after the last round, writing samples"
        write_samples(self.recipe, self.folder, worker, anchor)

    def _as_it_travels(self) -> str:
        """The recipe in each order: clients on this machine find the folders that it names."""
        far = self.recipe.federation.deployment is not None
        return (leaving(self.recipe) if far else self.recipe).model_dump_json()

    def _restore(self, worker: Worker, recipe_json: str) -> tuple[RoundServer, int]:
        """The server as the newest checkpoint left it, and the rounds that are done."""
        checkpoint = load_latest(self.folder.checkpoints)
        if checkpoint is not None:
            self._refuse_other_inputs(worker)
            if checkpoint.layout_hash != worker.layout.hash:
                raise RunStoppedError(
                    f"{self.folder.checkpoints} holds another adapter than this recipe's: "
                    f"the model or the lora section has changed; start a new run",
                    resumable=False,
                )
        server = RoundServer(
            self.recipe,
            worker.layout,
            worker.initial if checkpoint is None else checkpoint.anchor,
            recipe_json=recipe_json,
            base_hash=worker.base_hash,
            tokenizer_hash=worker.base.tokenizer_hash,
            train_own=lambda anchor, round_: worker.trainer.train(
                anchor, client=None, round_=round_
            ),
            loss_of=worker.evaluator.server_loss,
            hooks=SimulatedAttack(self.recipe, tools_of(self.recipe, worker)),
            folder=self.folder.path,
            observer=self.observer,
            stop=self.stop,
        )
        if self.recipe.federation.keep_replies:
            server.intake.kept = KeptReplies(self.folder.path / KEPT)
        if checkpoint is None:
            self.folder.truncate_metrics(0)
            return server, 0
        State(checkpoint.state, server.counts).put_back(server)
        refuse_another_place(self.folder, checkpoint)
        self.folder.truncate_metrics(checkpoint.metrics_bytes)
        self._mend_metrics(worker, server, checkpoint.round)
        records = self.folder.read_records()
        refuse_another_state(self.folder, checkpoint, records[-1], worker.layout)
        server.counts, server.undone_rounds = counts_of(records), undone_rounds(records)
        return server, checkpoint.round

    def _mend_metrics(self, worker: Worker, server: RoundServer, done: int) -> None:
        """Measure the checkpoint's round again if someone has cut its line off."""
        recorded = [record.round for record in self.folder.read_records()]
        if 0 not in recorded:
            self.folder.truncate_metrics(0)
            self._measure_again(worker, worker.initial, 0)
            recorded = [0]
        if recorded[-1] != done:
            self._measure_again(worker, server.outer.anchor, done)

    def _measure_again(self, worker: Worker, anchor: torch.Tensor, round_: int) -> None:
        measured = judge(self.recipe, worker, anchor)
        line = RoundRecord(round=round_, measured_again=True)
        line.note(eval=measured, next_anchor=hash_row(anchor, worker.layout))
        self.folder.append_metrics(line)

    def _inputs(self, worker: Worker) -> dict[str, str]:
        """Hashes of everything that a resumed run must find as it was."""
        inputs = {
            "recipe_hash": hash_recipe(self.recipe),
            "base_hash": worker.base_hash,
            "tokenizer_hash": worker.base.tokenizer_hash,
            "data_hash": worker.data.data_hash,
        }
        if self.recipe.initial_adapter is not None:
            row = worker.initial.numpy().tobytes()
            inputs["initial_adapter_hash"] = hashlib.sha256(row).hexdigest()
        return inputs

    def _refuse_other_inputs(self, worker: Worker) -> None:
        began_with = self.folder.read_manifest()
        for name, now in self._inputs(worker).items():
            if getattr(began_with, name) not in (None, now):
                what = name.removesuffix("_hash").replace("_", " ")
                raise RunStoppedError(
                    f"the {what} is no longer the one that {self.folder.path} began with; "
                    f"bring it back, or start a new run",
                    resumable=False,
                )

    def _begin(self, worker: Worker, server: RoundServer) -> None:
        """Measure the base, and save everything with which round 1 begins."""
        self.folder.write_manifest(manifest_of(self.recipe, worker, self._inputs(worker)))
        server.record = RoundRecord(round=0)
        self._measure(worker, server)
        self._save(server, 0)

    def _measure(self, worker: Worker, server: RoundServer) -> bool:
        """Measure the round; whether the run ends with it."""
        anchor = server.outer.anchor
        return measure_round(self.recipe, self.folder, worker, anchor, server.record)

    def _round(
        self, transport: Transport, worker: Worker, server: RoundServer, round_: int
    ) -> RoundRecord:
        started = time.monotonic()
        server.exchange.binding = binding_words(self.folder.manifest_hash(), self.folder.head())
        per_client, before = self.recipe.evaluation.per_client, None
        if round_ == 1 and per_client:
            before = server.evaluate_start(transport)
        if not server.run_round(transport, round_):
            raise RunStoppedError(self._too_few(server, round_))
        if before is not None:
            server.record.client_eval_before = before
        last = round_ == self.recipe.federation.num_rounds
        if last or round_ % self.recipe.evaluation.every == 0:
            self.doing = f"round {round_}, measuring"
            last = self._measure(worker, server) or last
        if last and per_client:
            server.evaluate_clients(transport, round_)
        self.doing = f"round {round_}, saving"
        server.record.round_s = round(time.monotonic() - started, 3)
        return self._save(server, round_)

    def _save(self, server: RoundServer, round_: int) -> RoundRecord:
        """Record the round, then the checkpoint that says how far the records are good.

        Where the step is judged, it has been by now: `round.acceptance.settle` says why not before.
        """
        state = State.of(server)
        parts: dict[str, Any] = {
            "round": round_,
            "state": state.tensors,
            "layout_hash": server.layout.hash,
        }
        server.record.revision = Checkpoint(**parts, metrics_bytes=0).revision
        server.record.next_anchor = hash_row(state.anchor, server.layout)
        if server.intake.kept is not None:
            server.intake.kept.put_anchor(round_, state.anchor, server.layout)
        record = self.folder.append_metrics(server.record)
        self._sign()
        checkpoint = Checkpoint(**parts, metrics_bytes=self.folder.metrics_bytes())
        checkpoint.save(self.folder.checkpoints, keep=self.recipe.checkpoint.keep)
        return record

    def _note_rows(self, roster: Roster) -> None:
        """Note what each node says of its rows, where those are its own; it moves nothing."""
        if self.recipe.federation.deployment is None:
            return
        write_told(self.folder.path, roster.said)

    def _sign(self) -> None:
        """Sign the record so far, where the server has a key that the nodes know."""
        if self.recipe.federation.deployment is not None:
            there = DeploymentFolder.open(self.recipe.federation.deployment)
            sign(self.folder, there.server_certificate, there.server_key)

    def _too_few(self, server: RoundServer, round_: int) -> str:
        tries = self.recipe.federation.max_retries + 1
        told = [f"client {client}: {reason}" for client, reason in server.record.refused.items()]
        more = [f"and {len(told) - _TOLD} more clients"] if len(told) > _TOLD else []
        return (
            f"round {round_} got too few good replies in {tries} tries: "
            f"{server.objection()}. "
            f"{'; '.join(told[:_TOLD] + more) or 'no client was refused'}"
        )

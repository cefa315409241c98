"""The round: broadcast, gather, screen, aggregate, outer step. One Flower Strategy."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

from aggregators.geometry import Point, Step
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.messages import wire
from fedtune.recipe import Recipe
from fedtune.records.events import Observer, Refused, RoundStarted, RunStoppedError, ignore
from fedtune.round.acceptance import Made, juries_of, settle
from fedtune.round.aggregation.combining import Combiner
from fedtune.round.aggregation.product_outer import make_outer
from fedtune.round.aggregation.terms import f_of_the_rest
from fedtune.round.broadcast import Broadcast
from fedtune.round.client_figures import note_evaluations
from fedtune.round.defence.server_data import LossOf, TrainOwn, own_update
from fedtune.round.defence.standing import count_on, counts_of
from fedtune.round.exchange import Post
from fedtune.round.new_record import new_record
from fedtune.round.roster import Roster
from fedtune.round.screening.intake import Intake
from fedtune.round.screening.screen import MAX_REASON, RefusedError
from fedtune.round.screening.spool import Spool
from fedtune.round.state import State
from fedtune.round.tries import Tries
from fedtune.simulation.adversary import Known
from fedtune.simulation.span import known_of
from fedtune.simulation.training_ahead import Tools
from fedtune.simulation.white_box import WhiteBox


class RobustStrategy(Strategy):
    """Holds the outer optimizer and the rule's state; a round either moves both, or neither.

    Flower's own ``Strategy.start`` aborts on one odd reply and "succeeds" when all fail, so
    `run_round` drives the same four hooks instead, one round at a time.
    """

    def __init__(
        self,
        recipe: Recipe,
        layout: Layout,
        anchor: Tensor,
        *,
        recipe_json: str,
        base_hash: str,
        tokenizer_hash: str,
        train_own: TrainOwn | None = None,
        loss_of: LossOf | None = None,
        tools: Tools | None = None,
        folder: Path | None = None,
        observer: Observer = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        self.recipe = recipe
        self.layout = layout
        self.part = Part.of_round(layout, recipe.lora.train, 1)
        self.outer = make_outer(recipe, layout, anchor)
        self.combiner = Combiner(recipe)
        self.record: dict[str, Any] = {}
        self.counts, self.undone_rounds = counts_of([]), 0
        self.made: Made | None = None
        hashes = (base_hash, tokenizer_hash)
        self.intake = Intake(recipe, Spool(folder and folder / "replies"), hashes)
        self.tries = Tries(recipe, folder and folder / "tries.json")
        stop = stop or threading.Event()
        self.post = Post(recipe, recipe_json, hashes, observer, stop, self.tries)
        self._train_own = train_own
        self._tools = tools
        self.juries = juries_of(recipe, layout, self.post, loss_of)
        self._observer = observer
        self._sent = Broadcast(recipe, layout, anchor, round_=1)

    @property
    def roster(self) -> Roster:
        """Which node is which client, and who is not asked."""
        return self.post.roster

    @roster.setter
    def roster(self, roster: Roster) -> None:
        self.post.roster = roster

    def run_round(self, grid: Grid, server_round: int) -> bool:
        """Run one round; with too few good replies, ask again, as often as allowed (`Tries`).

        The sample stays: a retry is no new draw for attackers to wait for.

        Returns:
            True if the anchor was stepped, or a jury refused the step, which is then undone. False
            leaves anchor, momentum and the rule's state untouched; `record` says who was refused
            and why.
        """
        before = State.of(self) if self.juries else None
        self.begin_round(server_round)
        for attempt in range(self.recipe.federation.max_retries + 1):
            if attempt:
                self.tries.again(self.record, self.intake.spool, self.objection())
            self.record |= {"attempt": attempt, "refused": {}}
            messages = self.configure_train(
                server_round, wire.to_arrays(self.outer.anchor, self.layout), ConfigRecord(), grid
            )
            replies = self.post.exchange(grid, messages, self._sent, self.record)
            stepped, _ = self.aggregate_train(server_round, replies)
            if stepped is not None:
                if before is not None:
                    settle(self, self.juries, before, grid)
                return True
        return False

    def begin_round(self, server_round: int) -> None:
        """Draw the round's clients, choose what they train, and open the round's record."""
        self.intake.spool.empty()
        self.part = Part.of_round(self.layout, self.recipe.lora.train, server_round)
        self.record = new_record(self.recipe, self.part, server_round)
        self.tries.begin(self.record)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each sampled client that is to be asked now; no record is shared."""
        asked = self.tries.to_ask(self.record["sampled"], self.intake.spool)
        self._observer(RoundStarted(server_round, self.record["attempt"], asked))
        absent = {client: why for client, why in self.roster.absent.items() if client in asked}
        for client, why in sorted({**absent, **self.tries.left_out}.items()):
            self._refuse(server_round, client, why)
        anchor = wire.from_arrays(arrays, self.layout)
        self._sent = Broadcast(self.recipe, self.layout, anchor, round_=server_round)
        self.record |= self._sent.hashes
        return self.post.orders(asked, self._sent, round_=server_round)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen each reply as it comes, then aggregate and step.

        Too few good replies: (None, None), and nothing has moved.

        Raises:
            RunStoppedError: If finite rows combine to what is not: the rule lets them.
        """
        started = time.monotonic()
        self._take(server_round, replies)
        enough = self.objection() is None
        reference, mine = None, self._train_own
        if enough:
            reference = own_update(self.recipe, mine, self.outer.anchor, self.record)
        self.record["train_s"] = round(self.record["train_s"] + time.monotonic() - started, 3)
        if not enough:
            return None, None
        started = time.monotonic()
        try:
            self._aggregate(server_round, reference)
        except ValueError as error:
            raise RunStoppedError(
                f"round {server_round} could not be aggregated: {error}; the anchor stays where "
                f"it was. Name a rule that withstands such clients"
            ) from error
        self.record["aggregate_s"] = round(time.monotonic() - started, 3)
        self.intake.spool.empty()
        return wire.to_arrays(self.outer.anchor, self.layout), MetricRecord()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask every client that is there to measure the anchor on its own held-out rows."""
        anchor = wire.from_arrays(arrays, self.layout)
        self._sent = Broadcast(self.recipe, self.layout, anchor, round_=server_round)
        return self.post.orders(
            list(self.roster.nodes),
            self._sent,
            round_=server_round,
            message_type=MessageType.EVALUATE,
        )

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep each client's own figures, as its word; their plain mean is for display."""
        return note_evaluations(replies, self.post, self.record, self._observer)

    def evaluate_clients(self, grid: Grid, server_round: int) -> None:
        """Run one evaluation by the clients; it moves nothing, and who is silent is left out."""
        arrays = wire.to_arrays(self.outer.anchor, self.layout)
        messages = self.configure_evaluate(server_round, arrays, ConfigRecord(), grid)
        replies = self.post.exchange(grid, messages, self._sent, self.record)
        self.aggregate_evaluate(server_round, replies)

    def evaluate_start(self, grid: Grid) -> dict[str, dict[str, float]]:
        """Each client's own figures of the anchor that round 1 starts from, by client."""
        self.record = {"round": 1}
        self.evaluate_clients(grid, 1)
        return dict(self.record["client_eval"])

    def summary(self) -> None:
        """Flower's hook for a summary; the run's own table says it all."""

    def _take(self, round_: int, replies: Iterable[Message]) -> None:
        """Screen and spool the replies; refuse, in the order of clients, who sent no good one."""
        bad: dict[int, str] = {}
        said: dict[int, dict[str, float]] = {}
        faulty: set[int] = set(self.record["proven_faulty"])
        for reply in replies:
            client = self.post.gathered.sender(reply)
            self.record["upload_bytes"] += wire.count_bytes(reply)
            try:
                said[client] = self.intake.take(
                    client,
                    reply,
                    self._sent.to(client),
                    round_=round_,
                    commitment=self.post.commitments.get(client),
                    try_=self.tries.number,
                )
            except RefusedError as refusal:
                bad[client] = str(refusal)
                faulty |= {client} if refusal.proves_fault else set()
        self.record["proven_faulty"] = sorted(faulty)  # attackers know, too, who is found out
        bad |= self.intake.settle(sorted(said), self._known(round_))
        bad |= self.post.gathered.refused
        for client in sorted(self.post.gathered.asked.values()):
            if client in bad or client not in said:
                self._refuse(round_, client, bad.get(client, "it sent no reply"))
            else:
                loss = said[client].pop("train_loss", None)
                told = {"train_loss": loss, "reply": self.intake.hashes[client]}
                self.record["clients"][str(client)] = told
                if said[client]:
                    self.record["clients"][str(client)]["said"] = said[client]

    def objection(self) -> str | None:
        """Why the rule does not run on the good replies so far, if so."""
        clients = self.tries.in_hand(self.intake.spool)
        return self.recipe.aggregator.objection(clients, self._f(clients))

    def _f(self, clients: Collection[int] | None = None) -> int:
        here = self.intake.spool.clients if clients is None else clients
        return f_of_the_rest(self.recipe.aggregator.f, self.record["proven_faulty"], here)

    def _known(self, round_: int) -> Known:
        given = (self._sent, self.part, self.intake.spool, round_, self._f())
        return known_of(WhiteBox(self.recipe, self.combiner, self.outer, *given), self._tools)

    def _aggregate(self, round_: int, reference: Tensor | None) -> None:
        before = dict(self.combiner.state)
        section, clients, f = self.recipe.aggregator, self.intake.spool.clients, self._f()
        self.record["f"] = f
        unfit = [section.mixing_names[k] for k in section.plan().unfit(len(clients), f)]
        combined = self.combiner.combine(
            self.intake.spool,
            self._sent,
            self.part,
            round_=round_,
            outer=self.outer,
            reference=reference,
            f=f,
        )
        if skipped := [*unfit, *combined.skipped]:
            self.record["skipped_mixings"] = skipped
        for i, client in enumerate(clients):
            self.record["clients"][str(client)] |= combined.facts_of(i)
        counts = count_on(self.record, self.counts)
        if self.juries:
            self.made = Made(combined.change, replace(State.of(self), counts=counts))
        try:
            self.step(combined.change)
        except ValueError:
            self.combiner.state = before
            raise
        self.counts = counts
        self.record |= {"aggregate_norm": combined.norm, **self.counts}

    def step(self, change: Tensor | Point | Step) -> None:
        """Move the anchor, and tell whoever remembers rows.

        Raises:
            ValueError: If the step leaves the range of float32; then nothing moves.
        """
        anchor = self.outer.anchor
        facts = self.outer.step(change, self.part)  # type: ignore[arg-type]
        renewed = self.combiner.renew_gauge(self.outer, self._sent)
        self.intake.adversary.note_step(self.outer.anchor - anchor, renewed)
        self.record |= facts or {}

    def _refuse(self, round_: int, client: int, reason: str) -> None:
        self.record["refused"][str(client)] = reason[:MAX_REASON]
        self._observer(Refused(round_, client, reason))

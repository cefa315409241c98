"""The server of a round: broadcast, gather, screen, aggregate, outer step."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.messages import wire
from fedtune.messages.message import EVALUATE, Message
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.events import Observer, Refused, RoundStarted, RunStoppedError, ignore
from fedtune.records.lines import Figures, RoundRecord
from fedtune.round.acceptance import Made, juries_of, settle
from fedtune.round.aggregation.choice import geometry_of
from fedtune.round.aggregation.geometry import OuterStep
from fedtune.round.aggregation.terms import Terms, f_of_the_rest
from fedtune.round.broadcast import Broadcast
from fedtune.round.client_figures import note_evaluations
from fedtune.round.defence.server_data import LossOf, TrainOwn, own_update
from fedtune.round.defence.standing import count_on, counts_of
from fedtune.round.exchange import Exchange
from fedtune.round.hooks import Hooks, NoHooks, RoundView
from fedtune.round.new_record import new_record
from fedtune.round.roster import Roster
from fedtune.round.screening.intake import Intake
from fedtune.round.screening.screen import MAX_REASON, RefusedError
from fedtune.round.screening.spool import Spool
from fedtune.round.state import State
from fedtune.round.tries import Tries
from fedtune.round.update import Update


class RoundServer:
    """Holds the outer optimizer and the rule's state; a round either moves both, or neither.

    Attributes:
        recipe: The run's.
        layout: Of the whole adapter.
        part: What the round trains.
        outer: The outer optimizer, which holds the anchor.
        geometry: How updates are compared, combined and stepped, with what the rule remembers.
        intake: Screens updates and keeps them for the round.
        exchange: Sends orders and receives replies.
        record: Of the round that runs, or ran last.
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
        hooks: Hooks | None = None,
        folder: Path | None = None,
        observer: Observer = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        self.recipe = recipe
        self.layout = layout
        self.part = Part.of_round(layout, recipe.lora.train, 1)
        self.geometry = geometry_of(recipe, layout, anchor)
        self.record = RoundRecord(round=0)
        self.counts, self.undone_rounds = counts_of([]), 0
        self.made: Made | None = None
        hashes = (base_hash, tokenizer_hash)
        self.hooks = hooks or NoHooks()
        spool = Spool(folder and folder / "replies")
        self.intake = Intake(recipe, spool, hashes, self.hooks, self.geometry.align)
        self.tries = Tries(recipe, folder and folder / "tries.json")
        stop = stop or threading.Event()
        self.exchange = Exchange(
            recipe, recipe_json, hashes, observer, stop, self.tries, self.hooks
        )
        self._train_own = train_own
        self.juries = juries_of(recipe, layout, self.exchange, loss_of)
        self._observer = observer
        self._sent = Broadcast(recipe, layout, anchor, round_=1)

    @property
    def outer(self) -> OuterStep:
        """The outer optimizer, which holds the anchor."""
        return self.geometry.outer

    @property
    def roster(self) -> Roster:
        """Which node is which client, and who is not asked."""
        return self.exchange.roster

    @roster.setter
    def roster(self, roster: Roster) -> None:
        self.exchange.roster = roster

    def run_round(self, transport: Transport, round_: int) -> bool:
        """Run one round; with too few good replies, ask again, as often as allowed (`Tries`).

        The sample stays: a retry is no new draw for attackers to wait for.

        Returns:
            True if the anchor was stepped, or a jury refused the step, which is then undone. False
            leaves anchor, momentum and the rule's state untouched; `record` says who was refused
            and why.
        """
        before = State.of(self) if self.juries else None
        self.begin_round(round_)
        for attempt in range(self.recipe.federation.max_retries + 1):
            if attempt:
                self.tries.again(self.record, self.intake.spool, self.objection())
            self.record.note(attempt=attempt, refused={})
            orders = self.orders_to_train(round_)
            replies = self.exchange.replies(transport, orders, self._sent, self.record)
            if self.aggregate(round_, replies):
                if before is not None:
                    settle(self, self.juries, before, transport)
                return True
        return False

    def begin_round(self, round_: int) -> None:
        """Draw the round's clients, choose what they train, and open the round's record."""
        self.intake.spool.empty()
        self.part = Part.of_round(self.layout, self.recipe.lora.train, round_)
        self.record = new_record(self.recipe, self.part, round_)
        self.tries.begin(self.record)

    def orders_to_train(self, round_: int) -> list[Message]:
        """One order for each sampled client that is to be asked now."""
        asked = self.tries.to_ask(self.record.sampled or (), self.intake.spool)
        self._observer(RoundStarted(round_, self.record.attempt, asked))
        absent = {client: why for client, why in self.roster.absent.items() if client in asked}
        for client, why in sorted({**absent, **self.tries.left_out}.items()):
            self._refuse(round_, client, why)
        self._sent = Broadcast(self.recipe, self.layout, self.outer.anchor, round_=round_)
        self.record.note(**self._sent.hashes)
        return self.exchange.orders(asked, self._sent, round_=round_)

    def aggregate(self, round_: int, replies: Iterable[Message]) -> bool:
        """Screen each reply as it comes, then aggregate and step.

        Returns:
            Whether there were enough good updates; if not, nothing has moved.

        Raises:
            RunStoppedError: If finite rows combine to what is not: the rule lets them.
        """
        started = time.monotonic()
        self._take(round_, replies)
        enough = self.objection() is None
        reference, mine = None, self._train_own
        if enough:
            reference = own_update(self.recipe, mine, self.outer.anchor, self.record)
        spent = time.monotonic() - started
        self.record.train_s = round((self.record.train_s or 0.0) + spent, 3)
        if not enough:
            return False
        started = time.monotonic()
        try:
            self._aggregate(round_, reference)
        except ValueError as error:
            raise RunStoppedError(
                f"round {round_} could not be aggregated: {error}; the anchor stays where "
                f"it was. Name a rule that withstands such clients"
            ) from error
        self.record.aggregate_s = round(time.monotonic() - started, 3)
        self.intake.spool.empty()
        return True

    def evaluate_clients(self, transport: Transport, round_: int) -> None:
        """Ask every client that is there to measure the anchor on its own held-out rows.

        It moves nothing, and clients that are silent are left out.
        """
        self._sent = Broadcast(self.recipe, self.layout, self.outer.anchor, round_=round_)
        there = list(self.roster.nodes)
        orders = self.exchange.orders(there, self._sent, round_=round_, kind=EVALUATE)
        replies = self.exchange.replies(transport, orders, self._sent, self.record)
        note_evaluations(replies, self.exchange, self.record, self._observer)

    def evaluate_start(self, transport: Transport) -> dict[int, Figures]:
        """Each client's own figures of the anchor that round 1 starts from, by client."""
        self.record = RoundRecord(round=1)
        self.evaluate_clients(transport, 1)
        return dict(self.record.client_eval)

    def _take(self, round_: int, replies: Iterable[Message]) -> None:
        """Screen and spool the replies; refuse, in the order of clients, who sent no good one."""
        bad: dict[int, str] = {}
        said: dict[int, Update] = {}
        faulty: set[int] = set(self.record.proven_faulty)
        for reply in replies:
            client = self.exchange.gathered.sender(reply)
            self.record.upload_bytes += wire.count_bytes(reply)
            try:
                said[client] = self.intake.take(
                    client,
                    reply,
                    self._sent.to(client),
                    round_=round_,
                    commitment=self.exchange.commitments.get(client),
                    try_=self.tries.number,
                )
            except RefusedError as refusal:
                bad[client] = str(refusal)
                faulty |= {client} if refusal.proves_fault else set()
        self.record.proven_faulty = sorted(faulty)  # attackers know, too, who is found out
        late, proven = self.intake.settle(sorted(said), self._view(round_))
        self.record.proven_faulty = sorted(faulty | proven)
        bad |= late | self.exchange.gathered.refused
        for client in sorted(self.exchange.gathered.asked.values()):
            if client in bad or client not in said:
                self._refuse(round_, client, bad.get(client, "it sent no reply"))
            else:
                self.record.clients[client] = said[client].as_record()

    def objection(self) -> str | None:
        """Why the rule does not run on the good replies so far, if so."""
        clients = self.tries.in_hand(self.intake.spool)
        return self.recipe.aggregator.objection(clients, self._f(clients))

    def _f(self, clients: Collection[int] | None = None) -> int:
        here = self.intake.spool.clients if clients is None else clients
        return f_of_the_rest(self.recipe.aggregator.f, self.record.proven_faulty, here)

    def _view(self, round_: int) -> RoundView:
        given = (self._sent, self.part, self.intake.spool, round_, self._f())
        return RoundView(self.recipe, self.geometry, *given)

    def _aggregate(self, round_: int, reference: Tensor | None) -> None:
        before = self.geometry.rule.state_dict()
        section, clients, f = self.recipe.aggregator, self.intake.spool.clients, self._f()
        self.record.f = f
        unfit = [section.mixing_names[k] for k in section.plan().unfit(len(clients), f)]
        terms = Terms.of(section, self.part, clients, f, round_, reference)
        combined = self.geometry.combine(self.intake.spool, self._sent, terms)
        if skipped := [*unfit, *combined.skipped]:
            self.record.skipped_mixings = skipped
        for i, client in enumerate(clients):
            self.record.clients[client].note(**combined.facts_of(i))
        counts = count_on(self.record, self.counts)
        if self.juries:
            self.made = Made(combined.change, replace(State.of(self), counts=counts))
        try:
            self.step(combined.change)
        except ValueError:
            self.geometry.rule.load_state_dict(before)
            raise
        self.counts = counts
        self.record.note(aggregate_norm=combined.norm, **self.counts)

    def step(self, change: Any) -> None:  # noqa: ANN401  as the geometry makes them
        """Move the anchor, and tell whoever remembers rows.

        Raises:
            ValueError: If the step leaves the range of float32; then nothing moves.
        """
        anchor = self.outer.anchor
        facts = self.geometry.step(change, self.part)
        renewed = self.geometry.renew(self._sent)
        self.hooks.after_step(self.outer.anchor - anchor, renewed)
        self.record.note(**facts)

    def _refuse(self, round_: int, client: int, reason: str) -> None:
        self.record.refused[client] = reason[:MAX_REASON]
        self._observer(Refused(round_, client, reason))

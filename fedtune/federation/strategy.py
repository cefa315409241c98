"""The round: broadcast, gather, screen, aggregate, outer step. One Flower Strategy."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from torch import Tensor

import aggregators
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.federation import wire
from fedtune.federation.adversary import Adversary
from fedtune.federation.events import (
    Observer,
    Refused,
    Replied,
    RoundStarted,
    RunStoppedError,
    ignore,
)
from fedtune.federation.gather import Gathered, Limits, gather
from fedtune.federation.outer import OuterOptimizer
from fedtune.federation.roster import Roster, sample_clients
from fedtune.federation.screen import MAX_REASON, RefusedError, read_evaluation, screen
from fedtune.recipe import Recipe


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
        observer: Observer = ignore,
        stop: threading.Event | None = None,
    ) -> None:
        self.recipe = recipe
        self.layout = layout
        self.part = Part.of_round(layout, recipe.lora.train, 1)
        self.outer = OuterOptimizer(recipe.outer, anchor)
        self.rule_state: dict[str, Tensor] = {}
        self.roster = Roster({}, {})
        self.record: dict[str, Any] = {}
        self._recipe_json = recipe_json
        self._hashes = (base_hash, tokenizer_hash)
        self._adversary = Adversary(recipe, layout)
        self._observer = observer
        self._stop = stop or threading.Event()
        self._gathered = Gathered()
        self._rows: dict[int, Tensor] = {}

    @property
    def agreement(self) -> wire.Agreement:
        """The hashes that every reply to the anchor of this moment must carry."""
        return wire.Agreement(*self._hashes, wire.hash_row(self.outer.anchor, self.layout))

    def run_round(self, grid: Grid, server_round: int) -> bool:
        """Run one round; with too few good replies, ask the missing again, as often as allowed.

        The sample stays, and so do the good replies: a retry is no new draw for liars to wait for.

        Returns:
            True if the anchor was stepped. False leaves anchor, momentum and the rule's state
            untouched; `record` says who was refused and why.
        """
        self.begin_round(server_round)
        for attempt in range(self.recipe.federation.max_retries + 1):
            if attempt:
                self.record.setdefault("refused_before", []).append(self.record["refused"])
            self.record |= {"attempt": attempt, "refused": {}}
            messages = self.configure_train(
                server_round, wire.to_arrays(self.outer.anchor, self.layout), ConfigRecord(), grid
            )
            started = time.monotonic()
            replies = self._gather(grid, server_round, messages)
            self.record["train_s"] = round(self.record["train_s"] + time.monotonic() - started, 3)
            stepped, _ = self.aggregate_train(server_round, replies)
            if stepped is not None:
                return True
        return False

    def begin_round(self, server_round: int) -> None:
        """Draw the round's clients, choose what they train, and open the round's record."""
        self._rows = {}
        self.part = Part.of_round(self.layout, self.recipe.lora.train, server_round)
        self.record = {
            "round": server_round,
            "trained": self.part.name,
            "attempt": 0,
            "sampled": sample_clients(self.recipe, round_=server_round),
            "refused": {},
            "clients": {},
            "upload_bytes": 0,
            "download_bytes": 0,
            "train_s": 0.0,
        }

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each sampled client whose good reply is not in; no record is shared."""
        asked = [client for client in self.record["sampled"] if client not in self._rows]
        self._observer(RoundStarted(server_round, self.record["attempt"], asked))
        for client in asked:
            if client in self.roster.absent:
                self._refuse(server_round, client, self.roster.absent[client])
        anchor = wire.from_arrays(arrays, self.layout)
        return self._address(asked, anchor, server_round, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Screen, aggregate, step. Too few good replies: (None, None), and nothing has moved.

        Raises:
            RunStoppedError: If finite rows combine to what is not: the rule lets them.
        """
        by_client = {self._gathered.sender(reply): reply for reply in replies}
        agreement = self.agreement
        self.record["upload_bytes"] += sum(map(wire.count_bytes, by_client.values()))
        by_client = self._adversary.corrupt(by_client, round_=server_round, agreement=agreement)
        self._screen(server_round, by_client, agreement)
        if not self.recipe.aggregator.is_defined(len(self._rows)):
            return None, None
        started = time.monotonic()
        try:
            self._aggregate()
        except ValueError as error:
            raise RunStoppedError(
                f"round {server_round} could not be aggregated: {error}; the anchor stays where "
                f"it was. Name a rule that withstands such clients"
            ) from error
        self.record["aggregate_s"] = round(time.monotonic() - started, 3)
        return wire.to_arrays(self.outer.anchor, self.layout), MetricRecord()

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """Ask every client that is there to measure the anchor on its own held-out rows."""
        anchor = wire.from_arrays(arrays, self.layout)
        return self._address(list(self.roster.nodes), anchor, server_round, MessageType.EVALUATE)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Keep each client's own figures, as its word; their plain mean is for display."""
        figures: dict[str, dict[str, float]] = {}
        for reply in replies:
            client = self._gathered.sender(reply)
            try:
                figures[str(client)] = read_evaluation(reply)
            except RefusedError as refusal:
                self._observer(Refused(server_round, client, f"evaluation: {refusal}"))
                self.record.setdefault("evaluation_refused", {})[str(client)] = str(refusal)
        self.record["client_eval"] = dict(sorted(figures.items(), key=lambda item: int(item[0])))
        losses = [figure["loss"] for figure in figures.values()]
        return MetricRecord({"loss": sum(losses) / len(losses)}) if losses else None

    def evaluate_clients(self, grid: Grid, server_round: int) -> None:
        """Run one evaluation by the clients; it moves nothing, and who is silent is left out."""
        arrays = wire.to_arrays(self.outer.anchor, self.layout)
        messages = self.configure_evaluate(server_round, arrays, ConfigRecord(), grid)
        self.aggregate_evaluate(server_round, self._gather(grid, server_round, messages))

    def summary(self) -> None:
        """Flower's hook for a summary; the run's own table says it all."""

    def _address(
        self, clients: list[int], anchor: Tensor, round_: int, message_type: str
    ) -> list[Message]:
        agreement, nodes = self.agreement, self.roster.nodes
        return [
            Message(
                wire.train_order(
                    anchor,
                    self.layout,
                    recipe_json=self._recipe_json,
                    round_=round_,
                    agreement=agreement,
                ),
                nodes[client],
                message_type,
                ttl=self.recipe.federation.round_timeout_s,
            )
            for client in clients
            if client in nodes
        ]

    def _gather(self, grid: Grid, round_: int, messages: list[Message]) -> list[Message]:
        sent = sum(map(wire.count_bytes, messages))
        self.record["download_bytes"] = self.record.get("download_bytes", 0) + sent
        client_of = {node_id: client for client, node_id in self.roster.nodes.items()}
        self._gathered = gather(
            grid,
            {client_of[message.metadata.dst_node_id]: message for message in messages},
            limits=Limits.of(self.recipe, wire.max_reply_bytes(self.part.layout)),
            stop=self._stop,
            on_reply=lambda client, reply: self._tell(round_, client, reply),
        )
        return list(self._gathered.by_client().values())

    def _tell(self, round_: int, client: int, reply: Message) -> None:
        if reply.has_error() or reply.metadata.message_type != MessageType.TRAIN:
            return
        loss = reply.content.metric_records.get(wire.METRICS, MetricRecord()).get("train_loss")
        size = wire.count_bytes(reply)
        self._observer(Replied(round_, client, size, loss if isinstance(loss, float) else None))

    def _screen(
        self, round_: int, by_client: dict[int, Message], agreement: wire.Agreement
    ) -> None:
        for client in sorted(self._gathered.asked.values()):
            try:
                if client in self._gathered.oversized:
                    size = self._gathered.oversized[client]
                    raise RefusedError(f"its reply of {size} bytes is more than any good one")
                if client not in by_client:
                    raise RefusedError("it sent no reply")
                row, metrics = screen(
                    by_client[client], self.part.layout, round_=round_, agreement=agreement
                )
            except RefusedError as refusal:
                self._refuse(round_, client, str(refusal))
                continue
            self._rows[client] = row
            self.record["clients"][str(client)] = {"train_loss": metrics.get("train_loss")}

    def _aggregate(self) -> None:
        section = self.recipe.aggregator
        clients = sorted(self._rows)
        combined = aggregators.aggregate_with_report(
            torch.stack([self._rows[client] for client in clients]),
            section.name,
            f=section.f,
            mixing=section.mixing,
            state=_under(self.part, self.rule_state),
            **section.options,
        )
        self.outer.step(combined.aggregate, self.part)
        self.rule_state = _replaced(self.part, combined.state, self.rule_state)
        norms, distances = combined.report["norms"], combined.report["distances"]
        for i, client in enumerate(clients):
            self.record["clients"][str(client)] |= {
                "weight": float(combined.weights[i]),
                "norm": norms[i],  # type: ignore[index]
                "distance": distances[i],  # type: ignore[index]
            }
        self.record["aggregate_norm"] = float(combined.aggregate.double().norm())

    def _refuse(self, round_: int, client: int, reason: str) -> None:
        self.record["refused"][str(client)] = reason[:MAX_REASON]
        self._observer(Refused(round_, client, reason))


def _under(part: Part, states: dict[str, Tensor]) -> dict[str, Tensor]:
    """What the rule has kept of the rounds of this part: another part's has other columns."""
    mine = f"{part.name}/"
    return {key.removeprefix(mine): kept for key, kept in states.items() if key.startswith(mine)}


def _replaced(part: Part, state: dict[str, Tensor], states: dict[str, Tensor]) -> dict[str, Tensor]:
    mine = f"{part.name}/"
    others = {key: kept for key, kept in states.items() if not key.startswith(mine)}
    return others | {f"{mine}{key}": kept for key, kept in state.items()}

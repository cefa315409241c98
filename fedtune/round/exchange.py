"""What the server sends to whom in a round, and what comes back of it, one reply at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence

from fedtune.messages import wire
from fedtune.messages.message import REVEAL, TRAIN, Message, MetricRecord, RecordDict
from fedtune.messages.node_errors import CODES
from fedtune.messages.recipe_once import NOT_KEPT, shorten
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.events import Ignored, Observer, Refused, Replied
from fedtune.records.lines import RoundRecord
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.gather import Gathered, Limits, stream
from fedtune.round.hooks import Hooks
from fedtune.round.roster import Roster
from fedtune.round.screening.commitments import collect, read_commitment
from fedtune.round.screening.screen import RefusedError
from fedtune.round.tries import Tries


class Exchange:
    """Addresses orders by client, and hands the replies over as they come.

    Attributes:
        roster: Which node is which client.
        gathered: Of the exchange that is running, or of the last one.
        commitments: What each client is bound to, where one was asked for.
        tries: Of the round.
        binding: What every order says of the run and its record.
    """

    def __init__(
        self,
        recipe: Recipe,
        recipe_json: str,
        hashes: tuple[str, str],
        observer: Observer,
        stop: threading.Event,
        tries: Tries,
        hooks: Hooks,
    ) -> None:
        self.roster = Roster({}, {})
        self.gathered = Gathered()
        self.commitments: dict[int, str] = {}
        self.binding: Mapping[str, str] = {}
        self.tries = tries
        self._recipe, self._recipe_json = recipe, recipe_json
        self._hashes, self._observer, self._stop = hashes, observer, stop
        self._hooks = hooks
        self._without_recipe: set[int] = set()  # nodes that said so

    def orders(
        self,
        clients: Sequence[int],
        sent: Broadcast,
        *,
        round_: int,
        kind: str = TRAIN,
    ) -> list[Message]:
        """An order with the anchor for each client that is there; no record is shared."""
        return [
            self._message(client, self._order(sent.to(client), round_), kind)
            for client in clients
            if client in self.roster.nodes
        ]

    def replies(
        self, transport: Transport, messages: list[Message], sent: Broadcast, record: RoundRecord
    ) -> Iterator[Message]:
        """The replies one at a time, each told to who watches; the bytes sent are recorded.

        Where the recipe asks for commitments, all have been taken before the first reply is shown,
        and none is shown while they are too few.
        """
        if self._recipe.federation.commit_then_reveal and _ask_for_training(messages):
            for client, reason in self.bind(transport, messages, sent, record).items():
                record.refused[client] = reason
                self._observer(Refused(record.round, client, reason))
            enough = self.tries.bind(self.commitments, record)
            self.commitments = dict(self.tries.commitments)
            messages = self.reveals(record.round, REVEAL) if enough else []
        yield from self.stream(transport, messages, sent, record)

    def bind(
        self,
        transport: Transport,
        messages: list[Message],
        sent: Broadcast,
        record: RoundRecord,
    ) -> dict[int, str]:
        """Take the commitments: the first step, which is over when this returns.

        Args:
            transport: Of any engine.
            messages: The orders that are answered by a commitment.
            sent: What they carry.
            record: The round's; bytes are added to it.

        Returns:
            Why others than those in `commitments` are not asked to reveal.
        """
        committed: list[tuple[int, object]] = []
        refused: dict[int, str] = {}
        for reply in self.stream(transport, messages, sent, record, most=wire.MAX_WORDS_BYTES):
            client = self.gathered.sender(reply)
            try:
                committed.append((client, read_commitment(reply)))
            except RefusedError as refusal:
                refused[client] = str(refusal)
        self.commitments, unbound = collect(committed, self.gathered.asked.values())
        return dict(sorted((unbound | refused | self.gathered.refused).items()))

    def reveals(self, round_: int, kind: str) -> list[Message]:
        """The orders to reveal, to those who gave a commitment.

        Args:
            round_: Counted from 1.
            kind: Of message, by what was committed to.
        """
        try_ = self.tries.number if kind == REVEAL else 0
        order = wire.reveal_order(recipe_json=self._recipe_json, round_=round_, try_=try_)
        return [self._message(client, order.copied(), kind) for client in sorted(self.commitments)]

    def stream(
        self,
        transport: Transport,
        messages: list[Message],
        sent: Broadcast,
        record: RoundRecord,
        *,
        most: int | None = None,
    ) -> Iterator[Message]:
        """One exchange, whatever it asks for: no reply of more than ``most`` bytes is kept."""
        weight = sum(map(wire.count_bytes, messages))
        record.download_bytes += weight
        client_of = {node_id: client for client, node_id in self.roster.nodes.items()}
        by_client = {client_of[message.node_id]: message for message in messages}
        bounds = {
            client: most or wire.max_reply_bytes(sent.to(client).part.layout)
            for client in by_client
        }
        limits = Limits.of(self._recipe, bounds)
        self.gathered = gathered = Gathered()
        round_ = record.round
        transport, lost = self._hooks.on_wire(transport, client_of, round_=round_)
        for reply in stream(
            transport, by_client, gathered, limits=limits, stop=self._stop, lost=lost
        ):
            self._note_recipe(self.roster.nodes[gathered.sender(reply)], reply)
            self._tell(round_, gathered.sender(reply), reply)
            yield reply
        for client, times in sorted(gathered.repeated.items()):
            record.repeated = {**record.repeated, client: record.repeated.get(client, 0) + times}
            self._observer(Ignored(round_, client, "a second reply was ignored"))

    def _message(self, client: int, content: RecordDict, kind: str) -> Message:
        ttl = self._recipe.federation.round_timeout_s + wire.CLOCK_SKEW_S
        content.config_records[wire.ORDER].update(self.binding)
        order = Message(content, self.roster.nodes[client], kind, ttl_s=ttl)
        if self.roster.introduced and order.node_id not in self._without_recipe:
            shorten(order)
        return order

    def _order(self, received: Received, round_: int) -> RecordDict:
        return wire.train_order(
            received.arrays,
            recipe_json=self._recipe_json,
            round_=round_,
            try_=self.tries.number,
            agreement=wire.Agreement(*self._hashes, received.anchor_hash),
        )

    def _note_recipe(self, node_id: int, reply: Message) -> None:
        """Send the recipe again to a node that has lost it."""
        if reply.error is None:
            self._without_recipe.discard(node_id)
        elif CODES[NOT_KEPT] in (reply.error.reason or ""):
            self._without_recipe.add(node_id)

    def _tell(self, round_: int, client: int, reply: Message) -> None:
        shown = wire.shown_by(self._recipe)
        if reply.content is None or reply.kind != shown:
            return
        loss = reply.content.metric_records.get(wire.METRICS, MetricRecord()).get("train_loss")
        told = loss if isinstance(loss, float) and math.isfinite(loss) else None
        self._observer(Replied(round_, client, wire.count_bytes(reply), told))


def _ask_for_training(messages: Sequence[Message]) -> bool:
    return any(message.kind == TRAIN for message in messages)

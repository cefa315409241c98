"""Ask every client that is there to vote on a candidate anchor: all commit, then all reveal."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.messages import wire
from fedtune.messages.message import REVEAL_VOTE, VOTE, Message, RecordDict
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.lines import Jury, RoundRecord
from fedtune.round.broadcast import Broadcast
from fedtune.round.defence.vote import Tally, Votes, byzantine_voters, count, record_of
from fedtune.round.exchange import Exchange
from fedtune.round.screening.commitments import Occasion, open_reply
from fedtune.round.screening.screen import MAX_REASON, RefusedError, content_of
from fedtune.round.screening.vote import read_vote

NO_REPLY = "it did not vote"


class Voting:
    """The jury of the clients' votes.

    The voters are the whole roster, whoever was sampled for the round.

    The accepted anchor travels along only to those who are not known to have measured it: as a
    rule they have, when it was a candidate. A client that has forgotten is not counted once, and
    is sent both the next time.

    Args:
        recipe: The run's.
        layout: Of the whole adapter.
        exchange: By whose way orders go out and replies come in.
    """

    def __init__(self, recipe: Recipe, layout: Layout, exchange: Exchange) -> None:
        self._recipe, self._layout, self._exchange = recipe, layout, exchange
        self._measured: dict[int, set[str]] = {}  # hashes by client, of its last good vote

    def judge(
        self,
        candidate: Tensor,
        accepted: Tensor,
        *,
        scale: float,
        transport: Transport,
        record: RoundRecord,
    ) -> Tally:
        """Ask for votes on a candidate, made of so much of the aggregate, and count them."""
        assert self._recipe.defence.vote is not None
        return count(
            self.ask(transport, candidate, accepted, record),
            scale=scale,
            f=byzantine_voters(self._recipe),
            tolerance=self._recipe.defence.vote.tolerance,
        )

    def record_of(self, verdicts: Sequence[Tally]) -> Jury:
        """What a round's record says of its vote."""
        return record_of(verdicts, self._recipe)

    def ask(
        self, transport: Transport, candidate: Tensor, accepted: Tensor, record: RoundRecord
    ) -> Votes:
        """Votes on a candidate, and why a client's is not counted.

        Args:
            transport: Of any engine.
            candidate: The anchor to vote on, a float32 row of the whole layout.
            accepted: The last accepted one.
            record: The round's; bytes are added to it.
        """
        round_, recipe = record.round, self._recipe
        sent = Broadcast(recipe, self._layout, candidate, round_=round_)
        before = Broadcast(recipe, self._layout, accepted, round_=round_)
        roster = self._exchange.roster
        not_counted = dict(roster.absent)
        orders = self._orders(list(roster.nodes), sent, before, round_)
        not_counted |= self._exchange.bind(transport, orders, sent, record)
        reveals = self._exchange.reveals(round_, REVEAL_VOTE)
        commitments = dict(self._exchange.commitments)
        changes: dict[int, float] = {}
        most = wire.MAX_WORDS_BYTES
        for reply in self._exchange.stream(transport, reveals, sent, record, most=most):
            client = self._exchange.gathered.sender(reply)
            record.upload_bytes += wire.count_bytes(reply)
            try:
                changes[client] = _open(client, reply, commitments, sent, before, round_)
            except RefusedError as refusal:
                not_counted[client] = str(refusal)
        not_counted |= self._exchange.gathered.refused
        for client in commitments:
            if client not in changes:
                not_counted.setdefault(client, NO_REPLY)
        self._note(list(roster.nodes), changes, sent, before)
        return Votes(changes, {client: why[:MAX_REASON] for client, why in not_counted.items()})

    def _orders(
        self, clients: list[int], sent: Broadcast, before: Broadcast, round_: int
    ) -> list[Message]:
        orders = self._exchange.orders(clients, sent, round_=round_, kind=VOTE)
        for client, order in zip(clients, orders, strict=True):
            accepted = before.to(client)
            knows = accepted.anchor_hash in self._measured.get(client, ())
            order.content = wire.vote_order(
                order.records,
                accepted_hash=accepted.anchor_hash,
                accepted=None if knows else accepted.arrays,
            )
        return orders

    def _note(
        self, clients: list[int], changes: dict[int, float], sent: Broadcast, before: Broadcast
    ) -> None:
        for client in clients:
            self._measured.pop(client, None)
            if client in changes:
                hashes = {before.to(client).anchor_hash, sent.to(client).anchor_hash}
                self._measured[client] = hashes


def _open(
    client: int,
    reply: Message,
    commitments: dict[int, str],
    sent: Broadcast,
    before: Broadcast,
    round_: int,
) -> float:
    """The vote in a reply, held against what its client committed to.

    Raises:
        RefusedError: If it is something else, or no vote on this candidate.
    """
    candidate_hash = sent.to(client).anchor_hash
    occasion = Occasion(candidate_hash, round_, client)
    content: RecordDict = open_reply(content_of(reply), commitments.get(client), occasion)
    return read_vote(
        content,
        round_=round_,
        candidate_hash=candidate_hash,
        accepted_hash=before.to(client).anchor_hash,
    )

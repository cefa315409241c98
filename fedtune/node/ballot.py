"""A client's vote: what a candidate anchor does to the loss on its own held-out rows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.messages import wire
from fedtune.messages.message import ArrayRecord, MetricRecord, RecordDict
from fedtune.messages.node_errors import failure
from fedtune.node.kept_back import VOTE, kept_back
from fedtune.round.defence.candidate import loss_rise
from fedtune.round.screening.commitments import Occasion
from fedtune.round.screening.screen import RefusedError, read_row

LOSSES = "held-out-losses"  # in the client's state: by the anchor's hash

Anchor = tuple[Tensor, str]


def cast(
    order: RecordDict,
    state: RecordDict,
    client: int,
    *,
    candidate: Anchor,
    layout: Layout,
    loss_of: Callable[[Tensor], float],
    says: Callable[[int, float], float],
) -> RecordDict:
    """A client's answer to an order to vote: a commitment to its vote, which is kept back.

    Args:
        order: As the server sent it.
        state: The client's own, in which votes wait and losses are remembered.
        client: Its number.
        candidate: The anchor to vote on, at this client's rank, with its hash, both checked.
        layout: At this client's rank.
        loss_of: The loss of a row on the client's held-out rows.
        says: What a client says of its true loss change; a simulated attacker may lie.

    Raises:
        ValueError: If there is nothing to compare the candidate with.
    """
    words = order.config_records[wire.ORDER]
    round_, accepted_hash = int(str(words["round"])), str(words["accepted_hash"])
    change = loss_change(candidate, (_accepted_in(order, layout), accepted_hash), state, loss_of)
    reply = wire.vote_reply(
        says(client, change),
        round_=round_,
        candidate_hash=candidate[1],
        accepted_hash=accepted_hash,
    )
    return kept_back(reply, state, Occasion(candidate[1], round_, client), kind=VOTE)


def read_anchor(record: ArrayRecord, layout: Layout) -> Tensor:
    """An anchor as a float32 row, read as strictly as a server reads a reply.

    Raises:
        ValueError: If it is not of these names, shapes and dtype, or not finite.
    """
    try:
        return read_row(record, layout)
    except RefusedError as error:
        raise failure("bad-anchor", f"the anchor is refused: {error}") from error


def loss_change(
    candidate: Anchor,
    accepted: tuple[Tensor | None, str],
    state: RecordDict,
    loss_of: Callable[[Tensor], float],
) -> float:
    """Loss on the candidate less loss on the last accepted anchor.

    Both losses are remembered by the anchors' hashes: a candidate that is accepted is what the next
    one is compared with, so that a vote costs one evaluation a round, and the first one two.

    Args:
        candidate: The row, at this client's rank, and its hash.
        accepted: The same of the last accepted anchor; None where the server has not sent it.
        state: The client's own; what it remembers is replaced.
        loss_of: The loss of a row on the client's held-out rows.

    Returns:
        A finite number, as `loss_rise` makes it of the two.

    Raises:
        ValueError: If the accepted anchor was neither sent nor measured before.
    """
    row, before_hash = accepted
    known = dict(state.metric_records.get(LOSSES, MetricRecord()))
    before = known.get(before_hash)
    if not isinstance(before, float):
        if row is None:
            raise failure("no-anchor")
        before = float(loss_of(row))
    after = float(loss_of(candidate[0]))
    state[LOSSES] = MetricRecord({before_hash: before, candidate[1]: after})
    return loss_rise(after, before)


def _accepted_in(order: RecordDict, layout: Layout) -> Tensor | None:
    """The last accepted anchor in an order to vote, held against its hash; None: not sent."""
    if wire.ACCEPTED not in order:
        return None
    row = read_anchor(order.array_records[wire.ACCEPTED], layout)
    need = order.config_records[wire.ORDER]["accepted_hash"]
    if (got := wire.hash_row(row, layout)) != need:
        text = f"accepted_hash differs: need {str(need)[:12]}, got {got[:12]}"
        raise failure("other-anchor", text)
    return row

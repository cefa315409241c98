"""A client's vote: what a candidate anchor does to the loss on its own held-out rows."""

from __future__ import annotations

import math
from collections.abc import Callable

from flwr.app import Message, MetricRecord, RecordDict
from torch import Tensor

from fedtune.federation import wire
from fedtune.federation.defence.vote import MAX_CHANGE
from fedtune.training.worker import Worker

LOSSES = "held-out-losses"  # in the client's state: by the anchor's hash

Anchor = tuple[Tensor, str]


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
        A finite number of at most `MAX_CHANGE`. A loss that is not finite counts as the worst: a
        client that could not say so would have no vote against an anchor that ruins the model.

    Raises:
        ValueError: If the accepted anchor was neither sent nor measured before.
    """
    row, before_hash = accepted
    known = dict(state.metric_records.get(LOSSES, MetricRecord()))
    before = known.get(before_hash)
    if not isinstance(before, float):
        if row is None:
            raise ValueError("this client has not measured the last accepted anchor")
        before = float(loss_of(row))
    after = float(loss_of(candidate[0]))
    state[LOSSES] = MetricRecord({before_hash: before, candidate[1]: after})
    return _difference(after, before)


def accepted_in(message: Message, worker: Worker, client: int) -> Tensor | None:
    """The last accepted anchor in an order to vote, held against its hash; None: not sent.

    Raises:
        ValueError: If it is another than the order names.
    """
    if wire.ACCEPTED not in message.content:
        return None
    layout = worker.layout_of(client)
    row = wire.from_arrays(message.content.array_records[wire.ACCEPTED], layout)
    need = message.content.config_records[wire.ORDER]["accepted_hash"]
    if (got := wire.hash_row(row, layout)) != need:
        raise ValueError(f"accepted_hash differs: need {str(need)[:12]}, got {got[:12]}")
    return row


def _difference(after: float, before: float) -> float:
    if math.isfinite(after) and math.isfinite(before):
        return max(-MAX_CHANGE, min(MAX_CHANGE, after - before))
    if not math.isfinite(after) and not math.isfinite(before):
        return 0.0
    return -MAX_CHANGE if math.isfinite(after) else MAX_CHANGE

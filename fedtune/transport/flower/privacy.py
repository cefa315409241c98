"""Local differential privacy of a reply, through Flower's LocalDpMod, where a node's owner asks."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, MetricRecord, RecordDict
from flwr.clientapp.mod import LocalDpMod
from torch import Tensor

from fedtune.messages import wire
from fedtune.messages.node_errors import failure
from fedtune.plain import last_traceback
from fedtune.training.client_round import Trained

KEYS = ("clipping_norm", "epsilon", "delta")  # of Flower's node config
_STATE_WORDS = 624  # of numpy's Mersenne Twister


def finite(delta: Tensor, context: Context) -> Tensor:
    """A delta that may be sent: finite, or zeros where the replies of this node are private.

    A private reply is noise around zeros then: no error says that training failed.

    Args:
        delta: What training left, a float32 row.
        context: Its node config holds `KEYS` where replies are private.

    Raises:
        ValueError: If a value is not finite and the replies are not private.
    """
    if bool(torch.isfinite(delta).all()):
        return delta
    if not _is_asked(context):
        text = "local training left a value that is not finite: there is no update"
        raise failure("not-finite", text)
    return torch.zeros_like(delta)


def trained_privately(train: Callable[[], Trained], size: int, context: Context) -> Trained:
    """What local training leaves; where replies are private, zeros if it fails on the rows.

    A failure tells of the rows as a delta does: one row alone, and a length that it has or has not,
    decide whether there is anything to train on. Its text is in this node's log.

    Args:
        train: Runs the local steps; what does not depend on the rows was checked before.
        size: Of the delta.
        context: As for `finite`.
    """
    try:
        return train()
    except Exception:
        if not _is_asked(context):
            raise
        print(last_traceback(), file=sys.stderr, flush=True)
        return Trained(torch.zeros(size), float("nan"))


def privately(reply: RecordDict, context: Context) -> RecordDict:
    """Clip the delta of a reply, add noise to it, and leave out the client's figures.

    Any two deltas within the clipping norm differ by at most twice that: this is the sensitivity.
    Flower's clipping takes the smaller of 1 and norm ratio, which is 1 where a norm is NaN, so that
    the clipping is done here, in float64, and Flower's has nothing left to cut.

    Args:
        reply: To an order to train.
        context: Its node config holds `KEYS`; where it does not, the reply stays as it is.
    """
    if not _is_asked(context):
        return reply
    norm, epsilon, delta = (float(context.node_config[key]) for key in KEYS)
    shares = _clipped(reply.array_records[wire.DELTA], norm)
    if not any(array.numpy().any() for array in shares.values()):
        shares = _all_but_zero(shares)
    nothing = {name: Array(np.zeros_like(array.numpy())) for name, array in shares.items()}
    # Training has seeded numpy from the recipe, which the server knows: so would be the noise.
    np.random.seed(np.frombuffer(os.urandom(4 * _STATE_WORDS), dtype=np.uint32))
    mod = LocalDpMod(norm, 2 * norm, epsilon, delta)
    noisy = mod(_message(RecordDict({wire.DELTA: ArrayRecord(nothing)})), context, _said(shares))
    if noisy.has_error():
        raise ValueError(f"Flower's LocalDpMod refused: {noisy.error.reason}")
    (found,) = noisy.content.array_records.values()
    arrays = {name: Array(array.numpy().astype(np.float32)) for name, array in found.items()}
    if not all(np.isfinite(array.numpy()).all() for array in arrays.values()):
        raise ValueError("privacy: the noise leaves the range of float32: raise epsilon")
    figures = MetricRecord({"train_loss": float("nan")})  # a loss would tell of the rows
    return RecordDict(
        {
            wire.DELTA: ArrayRecord(arrays),
            wire.ABOUT: reply.config_records[wire.ABOUT],
            wire.METRICS: figures,
        }
    )


def _is_asked(context: Context) -> bool:
    return all(key in context.node_config for key in KEYS)


def _clipped(shares: ArrayRecord, norm: float) -> ArrayRecord:
    """The arrays scaled down to a norm of all of them together; zeros if a value is not finite."""
    arrays = {name: array.numpy().astype(np.float64) for name, array in shares.items()}
    length = math.sqrt(sum(float(np.square(values).sum()) for values in arrays.values()))
    if not math.isfinite(length):
        return ArrayRecord(
            {name: Array(np.zeros(each.shape, np.float32)) for name, each in arrays.items()}
        )
    if length <= norm:
        return shares
    scale = norm / length
    return ArrayRecord(
        {name: Array((scale * values).astype(np.float32)) for name, values in arrays.items()}
    )


def _all_but_zero(shares: ArrayRecord) -> ArrayRecord:
    """Flower's clipping divides by the norm: a delta of zeros would be an error, and tell of it."""
    arrays = {name: array.numpy().copy() for name, array in shares.items()}
    next(iter(arrays.values())).flat[0] = 1e-12
    return ArrayRecord({name: Array(values) for name, values in arrays.items()})


def refuse_figures(context: Context) -> None:
    """Keep back the figures of a client's own held-out rows, where its replies are private.

    Raises:
        ValueError: If they are.
    """
    if _is_asked(context):
        raise failure("private")


def _said(shares: ArrayRecord) -> Callable[[Message, Context], Message]:
    def answer(message: Message, context: Context) -> Message:
        return Message(RecordDict({wire.DELTA: shares}), reply_to=message)

    return answer


def _message(content: RecordDict) -> Message:
    made = Message(content, 1, MessageType.TRAIN)
    made.metadata.__dict__["_message_id"] = "inside"
    return made

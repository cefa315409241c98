"""Local differential privacy of a reply, through Flower's LocalDpMod, where a node's owner asks."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fedtune.messages import wire
from fedtune.messages.message import Array, ArrayRecord, Context, MetricRecord, RecordDict
from fedtune.messages.node_errors import failure
from fedtune.plain import last_traceback
from fedtune.training.client_round import Trained

KEYS = ("clipping_norm", "epsilon", "delta")  # of Flower's node config


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
    from fedtune.transport.flower.local_dp import noisy

    norm, epsilon, delta = (float(str(context.node_config[key])) for key in KEYS)
    arrays = {name: array.numpy() for name, array in reply.array_records[wire.DELTA].items()}
    shares = _clipped(arrays, norm)
    if not any(values.any() for values in shares.values()):
        shares = _all_but_zero(shares)
    found = noisy(shares, norm=norm, epsilon=epsilon, delta=delta)
    if not all(np.isfinite(values).all() for values in found.values()):
        raise ValueError("privacy: the noise leaves the range of float32: raise epsilon")
    figures = MetricRecord({"train_loss": float("nan")})  # a loss would tell of the rows
    return RecordDict(
        {
            wire.DELTA: ArrayRecord({name: Array.of(values) for name, values in found.items()}),
            wire.ABOUT: reply.config_records[wire.ABOUT],
            wire.METRICS: figures,
        }
    )


def _is_asked(context: Context) -> bool:
    return all(key in context.node_config for key in KEYS)


def _clipped(shares: Mapping[str, np.ndarray], norm: float) -> dict[str, np.ndarray]:
    """The arrays scaled down to a norm of all of them together; zeros if a value is not finite."""
    exact = {name: values.astype(np.float64) for name, values in shares.items()}
    length = math.sqrt(sum(float(np.square(values).sum()) for values in exact.values()))
    if not math.isfinite(length):
        return {name: np.zeros(values.shape, np.float32) for name, values in exact.items()}
    if length <= norm:
        return dict(shares)
    scale = norm / length
    return {name: (scale * values).astype(np.float32) for name, values in exact.items()}


def _all_but_zero(shares: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Flower's clipping divides by the norm: a delta of zeros would be an error, and tell of it."""
    arrays = {name: values.copy() for name, values in shares.items()}
    next(iter(arrays.values())).flat[0] = 1e-12
    return arrays


def refuse_figures(context: Context) -> None:
    """Keep back the figures of a client's own held-out rows, where its replies are private.

    Raises:
        ValueError: If they are.
    """
    if _is_asked(context):
        raise failure("private")

"""Gaussian noise on a client's arrays, by Flower's LocalDpMod."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MessageType, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.clientapp.mod import LocalDpMod

_STATE_WORDS = 624  # of numpy's Mersenne Twister
_SHARES = "shares"


def noisy(
    shares: Mapping[str, np.ndarray], *, norm: float, epsilon: float, delta: float
) -> dict[str, np.ndarray]:
    """Arrays with the noise of local differential privacy.

    Any two sets of arrays within the norm differ by at most twice that: this is the sensitivity.

    Args:
        shares: Of all together at most ``norm`` long, and not all zero: Flower divides by it.
        norm: That Flower clips to.
        epsilon: Of the guarantee, for one reply.
        delta: Likewise.

    Raises:
        ValueError: If Flower refuses.
    """
    nothing = {name: Array(np.zeros_like(values)) for name, values in shares.items()}
    # Training has seeded numpy from the recipe, which the server knows: so would be the noise.
    np.random.seed(np.frombuffer(os.urandom(4 * _STATE_WORDS), dtype=np.uint32))
    context = Context(0, 0, {}, RecordDict(), {})
    mod = LocalDpMod(norm, 2 * norm, epsilon, delta)
    made = mod(_message(ArrayRecord(nothing)), context, _answer(shares))
    if made.has_error():
        raise ValueError(f"Flower's LocalDpMod refused: {made.error.reason}")
    (found,) = made.content.array_records.values()
    return {name: array.numpy().astype(np.float32) for name, array in found.items()}


def _answer(shares: Mapping[str, np.ndarray]) -> Callable[[Message, Context], Message]:
    record = ArrayRecord({name: Array(values) for name, values in shares.items()})

    def answer(message: Message, context: Context) -> Message:
        return _message(record)

    return answer


def _message(arrays: ArrayRecord) -> Message:
    """A message that goes nowhere: Flower's own way to make one asks which task this process is."""
    metadata = Metadata(0, "", 0, 0, "", "", 0.0, 1.0, MessageType.TRAIN)
    return make_message(metadata, RecordDict({_SHARES: arrays}))

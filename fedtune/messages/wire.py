"""What crosses the network: named float32 arrays and a few words, never a pickle."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.messages import message
from fedtune.messages.message import (
    REVEAL,
    TRAIN,
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.recipe import Recipe

ANCHOR, DELTA, ABOUT, METRICS = "anchor", "delta", "about", "metrics"
ORDER = message.ORDER
ACCEPTED, CHANGE = "accepted", "change"
TRY = "try"
# More than any node's clock may be off (transport/flower/clock.py): Flower counts a message's time
# to live on both clocks, and takes no reply of a node for which it is over. The deadline of the
# round is on the server's clock alone.
CLOCK_SKEW_S = 600.0
MAX_WORDS_BYTES = 2**18  # of names and words about itself in one reply


@dataclass(frozen=True)
class Agreement:
    """The hashes on which client and server must agree before a reply counts."""

    base_hash: str
    tokenizer_hash: str
    anchor_hash: str

    def difference(self, other: Agreement) -> str | None:
        """Name the first hash that differs, with both values; None if all agree."""
        for name, ours in asdict(self).items():
            theirs = getattr(other, name)
            if ours != theirs:
                return f"{name} differs: need {ours[:12]}, got {str(theirs)[:12]}"
        return None


def hash_row(row: Tensor, layout: Layout) -> str:
    """SHA-256 over layout and values of an adapter, in hex."""
    digest = hashlib.sha256(layout.hash.encode())
    digest.update(row.contiguous().numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def to_arrays(row: Tensor, layout: Layout) -> ArrayRecord:
    """An adapter's row as named arrays."""
    tensors = layout.unflatten(row)
    return ArrayRecord({name: Array.of(tensor.numpy()) for name, tensor in tensors.items()})


def from_arrays(record: ArrayRecord, layout: Layout) -> Tensor:
    """Named arrays from a party that is trusted so far, as a row. Replies go through `screen`."""
    tensors = {name: torch.from_numpy(array.numpy().copy()) for name, array in record.items()}
    return layout.flatten(tensors)


def train_order(
    anchor: ArrayRecord, *, recipe_json: str, round_: int, agreement: Agreement, try_: int = 0
) -> RecordDict:
    """What the server sends to a client: the anchor, the recipe, the round, its try, the hashes.

    Each client gets its own records; the arrays in them, whose bytes nobody changes, are shared.
    """
    words: dict[str, Any] = {"recipe": recipe_json, "round": round_, TRY: try_, **asdict(agreement)}
    return RecordDict({ANCHOR: ArrayRecord(anchor), ORDER: ConfigRecord(words)})


def reveal_order(*, recipe_json: str, round_: int, try_: int = 0) -> RecordDict:
    """What the server sends once all commitments are in: show what you are bound to."""
    words: dict[str, Any] = {"recipe": recipe_json, "round": round_, TRY: try_}
    return RecordDict({ORDER: ConfigRecord(words)})


def try_of(order: Mapping[str, object]) -> int:
    """Which try of the round an order is for, from 0; one that does not say is for the first.

    Raises:
        ValueError: If it is no count.
    """
    found = order.get(TRY, 0)
    if type(found) is not int or found < 0:
        raise ValueError(f"an order needs a {TRY} that is a count; got {str(found)[:32]!r}")
    return found


def vote_order(
    order: RecordDict, *, accepted_hash: str, accepted: ArrayRecord | None
) -> RecordDict:
    """An order with a candidate anchor as one to vote on it.

    Args:
        order: As to train from the candidate.
        accepted_hash: Of the last accepted anchor, with which the candidate is compared.
        accepted: That anchor, for who may not have measured it; bytes as in `train_order`.
    """
    order.config_records[ORDER]["accepted_hash"] = accepted_hash
    if accepted is None:
        return order
    return RecordDict({**order, ACCEPTED: ArrayRecord(accepted)})


def vote_reply(
    change: float, *, round_: int, candidate_hash: str, accepted_hash: str
) -> RecordDict:
    """A client's vote: by how much its held-out loss differs between the two anchors."""
    about: dict[str, Any] = {
        "round": round_,
        "anchor_hash": candidate_hash,
        "accepted_hash": accepted_hash,
    }
    return RecordDict({ABOUT: ConfigRecord(about), METRICS: MetricRecord({CHANGE: change})})


def shown_by(recipe: Recipe) -> str:
    """Kind of the message in which a recipe's clients show their delta."""
    return REVEAL if recipe.federation.commit_then_reveal else TRAIN


def train_reply(
    delta: Tensor,
    layout: Layout,
    *,
    round_: int,
    agreement: Agreement,
    train_loss: float,
    figures: Mapping[str, float] = MappingProxyType({}),
) -> RecordDict:
    """What a client sends back. Loss and figures are shown, and move nothing."""
    return RecordDict(
        {
            DELTA: to_arrays(delta, layout),
            ABOUT: ConfigRecord({"round": round_, **asdict(agreement)}),
            METRICS: MetricRecord({"train_loss": float(train_loss), **figures}),
        }
    )


def read_agreement(words: ConfigRecord) -> Agreement:
    """The hashes in a message; one that is missing, or is no text, agrees with none."""
    found = [words.get(name) for name in ("base_hash", "tokenizer_hash", "anchor_hash")]
    return Agreement(*(word if type(word) is str else f"({type(word).__name__})" for word in found))


def count_bytes(message: Message) -> int:
    """Bytes of everything in a message that its sender chose: names, values, an error's reason."""
    if message.error is not None:
        return len(message.error.reason or "")
    return sum(
        len(name) + sum(len(key) + count_value(value) for key, value in record.items())
        for name, record in message.records.items()
    )


def count_value(value: object) -> int:
    """Bytes of one value of a record."""
    if isinstance(value, Array):
        return len(value.data) + len(value.dtype) + len(value.stype) + 8 * len(value.shape)
    if isinstance(value, list):
        return sum(8 + count_value(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 8


def max_reply_bytes(layout: Layout) -> int:
    """The most that a well-formed reply can weigh: the numbers, their headers, a few words."""
    return layout.size * 4 + len(layout.shapes) * 1024 + MAX_WORDS_BYTES

"""Messages between server and clients as plain data, whatever carries them.

The names are those of Flower's records, which carry them over a network one for one
(`fedtune.transport.flower.convert`). Nothing here checks what a stranger wrote: screening does.
"""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

Scalar: TypeAlias = bool | int | float | str | bytes
Value: TypeAlias = Scalar | list[bool] | list[int] | list[float] | list[str] | list[bytes]

QUERY, TRAIN, EVALUATE = "query", "train", "evaluate"
REVEAL = "train.reveal"  # asks for the update that was committed to
VOTE, REVEAL_VOTE = "evaluate.vote", "evaluate.reveal"
KINDS = (QUERY, TRAIN, REVEAL, EVALUATE, VOTE, REVEAL_VOTE)
CLIENT_RAISED = 2  # code of an error whose text is the client's own, and may say anything
NPY = "numpy.ndarray"
ORDER = "order"  # name of the record of words in each order


@dataclass(slots=True)
class Array:
    """A tensor as it travels.

    Attributes:
        dtype: numpy's name of it.
        shape: Its axes.
        stype: The format of ``data``; ``numpy.ndarray`` is npy, version 1.0.
        data: The bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    stype: str
    data: bytes

    @classmethod
    def of(cls, values: np.ndarray) -> Array:
        """An array of numbers in npy format."""
        with io.BytesIO() as file:
            np.save(file, values, allow_pickle=False)
            return cls(str(values.dtype), values.shape, NPY, file.getvalue())

    def numpy(self) -> np.ndarray:
        """The numbers of one that is trusted.

        Raises:
            ValueError: If it is in another format.
        """
        if self.stype != NPY:
            raise ValueError(f"an array needs the format {NPY}; got {self.stype[:32]!r}")
        with io.BytesIO(self.data) as file:
            values: np.ndarray = np.load(file, allow_pickle=False)
        return values


class ArrayRecord(dict[str, Array]):
    """Named arrays."""


class ConfigRecord(dict[str, Value]):
    """Named words: text, bytes, numbers, and lists of them."""


class MetricRecord(dict[str, int | float | list[int] | list[float]]):
    """Named numbers."""


Record: TypeAlias = ArrayRecord | ConfigRecord | MetricRecord


class RecordDict(dict[str, Record]):
    """The content of a message: records by name, in order."""

    @property
    def array_records(self) -> dict[str, ArrayRecord]:
        """Those of arrays."""
        return {name: each for name, each in self.items() if isinstance(each, ArrayRecord)}

    @property
    def config_records(self) -> dict[str, ConfigRecord]:
        """Those of words."""
        return {name: each for name, each in self.items() if isinstance(each, ConfigRecord)}

    @property
    def metric_records(self) -> dict[str, MetricRecord]:
        """Those of metrics."""
        return {name: each for name, each in self.items() if isinstance(each, MetricRecord)}

    def copied(self) -> RecordDict:
        """The same in new records, which share their arrays."""
        return RecordDict({name: copy.copy(each) for name, each in self.items()})


@dataclass(frozen=True)
class Error:
    """Why there is no content.

    Attributes:
        code: Of Flower's.
        reason: In words; a client's own where the code is `CLIENT_RAISED`.
    """

    code: int
    reason: str | None = None


@dataclass(eq=False)
class Message:
    """An order to a client, or its reply.

    Attributes:
        content: None where there is an error in its place.
        node_id: Of the client's node, whichever way the message goes.
        kind: One of `KINDS`.
        ttl_s: Seconds after which a network need not deliver it any more.
        id: As the transport gave it.
        reply_to: The id of the order that this answers.
        error: Why there is no content.
    """

    content: RecordDict | None
    node_id: int = 0
    kind: str = TRAIN
    ttl_s: float | None = None
    id: str = ""
    reply_to: str = ""
    error: Error | None = None

    def reply(self, content: RecordDict | None) -> Message:
        """The answer to this order."""
        return Message(content, self.node_id, self.kind, reply_to=self.id)

    def failed(self, reason: str, code: int = CLIENT_RAISED) -> Message:
        """An error as the answer to this order."""
        error = Error(code, reason)
        return Message(None, self.node_id, self.kind, reply_to=self.id, error=error)

    @property
    def records(self) -> RecordDict:
        """The content of a message that has one.

        Raises:
            ValueError: If it is an error.
        """
        if self.content is None:
            raise ValueError("this message has no content")
        return self.content


@dataclass(eq=False)
class Context:
    """What a client knows and keeps beside the message.

    Attributes:
        node_config: ``partition-id``, its number, and what its owner adds.
        state: Kept from message to message of one run.
    """

    node_config: Mapping[str, Value]
    state: RecordDict = field(default_factory=RecordDict)

    @property
    def client(self) -> int:
        """The client's number."""
        return int(str(self.node_config["partition-id"]))


Handler = Callable[[Message, Context], Message]


class Client:
    """What a client does with each kind of message; it is called with one at a time."""

    def __init__(self, handlers: Mapping[str, Handler] | None = None) -> None:
        self._handlers = dict(handlers or {})

    def on(self, kind: str) -> Callable[[Handler], Handler]:
        """Decorate what answers a kind of message."""

        def register(handler: Handler) -> Handler:
            self._handlers[kind] = handler
            return handler

        return register

    def __call__(self, message: Message, context: Context) -> Message:
        """The reply to a message.

        Raises:
            ValueError: If nothing answers its kind.
        """
        if message.kind not in self._handlers:
            raise ValueError(f"this client answers {sorted(self._handlers)}; got {message.kind!r}")
        return self._handlers[message.kind](message, context)

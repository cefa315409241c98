"""Take one reply off Flower's SuperLink: weighed before it is unpacked, and never waited for.

Flower's own grid unpacks all that the SuperLink hands out with a reply. There one node can end the
run by a reply that cannot be read, answer in another's name, slip a message in between for which
another is blamed, name one piece of 5 MB a million times, and hold up everyone by a piece that
never comes. Here the SuperLink's word says whose a reply is, and the pieces are weighed first.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import httpx
from flwr import app as flower
from flwr.app import Metadata
from flwr.app.message import make_message
from flwr.common.serde_utils import metadata_from_proto
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
)
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_object_head_values_from_object_content,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

from fedtune.messages.message import Message
from fedtune.messages.packing import MAX_WORDS_BYTES
from fedtune.transport.flower.convert import reply_from_flower

MAX_TABLE_BYTES = 2**23  # of names and references in a reply: JSON grows tenfold as objects
PULL_S, BYTES_PER_S = 20.0, 5e6  # a reply may take so long, and so much longer by its bound
AT_ONCE = 4  # objects that are asked for at a time
FIRST_RETRY_S, LAST_RETRY_S = 0.25, 2.0  # until a piece that is not there is asked for again

_FAILED = 500  # HTTP's word where Flower raises: one reply's fault is not that of the others


class BadReplyError(ValueError):
    """A reply is not taken; the text says why."""


@dataclass
class _Announced:
    """A reply that the SuperLink has told of.

    Attributes:
        metadata: As the SuperLink checked it: who answers what.
        object_ids: Its pieces, the message itself first: a node sends that one last.
        due: When to look for the pieces again.
        wait_s: How long to wait the next time.
    """

    metadata: Metadata
    object_ids: list[str]
    due: float = 0.0
    wait_s: float = FIRST_RETRY_S

    def put_off(self) -> None:
        self.due = time.monotonic() + self.wait_s
        self.wait_s = min(2 * self.wait_s, LAST_RETRY_S)


class Puller:
    """Pulls replies one at a time, each by the message that it answers.

    Args:
        grid: Flower's grid over HTTP; its connection is used, and nothing else of it.
    """

    def __init__(self, grid: Any) -> None:  # noqa: ANN401  Flower's internals have no types
        self._grid = grid
        self._client = grid._runtime_client
        self._announced: dict[str, _Announced] = {}
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="pull")

    def forget_all_but(self, message_ids: Collection[str]) -> None:
        """Drop what was announced for messages that no one asks for any more."""
        kept = set(message_ids)
        self._announced = {key: each for key, each in self._announced.items() if key in kept}

    def pull(self, message_id: str, max_bytes: int) -> Message | None:
        """The whole reply to a message, or None as long as it has not come.

        Raises:
            BadReplyError: If the reply cannot be read, or weighs more; it is gone then.
        """
        announced = self._announced.get(message_id)
        if announced is None:
            announced = self._ask(message_id, max_bytes)
        if announced is None or time.monotonic() < announced.due:
            return None
        try:
            contents = self._pull_objects(announced, max_bytes)
        except BadReplyError:
            self._done_with(message_id, announced)
            raise
        if contents is None:
            announced.put_off()
            return None
        self._done_with(message_id, announced)
        _check_unpacked(contents, max_bytes)
        return _unpack(announced, contents)

    def _ask(self, message_id: str, max_bytes: int) -> _Announced | None:
        try:
            answer = self._client.PullMessages(PullAppMessagesRequest(message_ids=[message_id]))
        except httpx.HTTPStatusError as error:
            if error.response.status_code != _FAILED:
                raise
            raise BadReplyError("the SuperLink failed at its reply") from error
        found = None
        for proto, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            # The SuperLink adds what anyone has sent to the server unasked: that is no reply.
            if proto.metadata.reply_to_message_id == message_id:
                metadata = metadata_from_proto(proto.metadata)
                found = self._announced[message_id] = _Announced(metadata, [])
                found.object_ids = _ids(tree, most=16 + max_bytes // 256)
            else:
                self._confirm(proto.metadata.message_id)
        return found

    def _pull_objects(self, announced: _Announced, max_bytes: int) -> dict[str, bytes] | None:
        """All pieces, or None if one has not come."""
        if not announced.object_ids:
            raise BadReplyError("its reply is in more pieces than the adapter has")
        deadline = time.monotonic() + PULL_S + max_bytes / BYTES_PER_S
        contents: dict[str, bytes] = {}
        weights = dict.fromkeys(("all", "tables", "words"), 0)
        for batch in _batches(announced.object_ids):
            for object_id, content in zip(batch, self._pool.map(self._object, batch), strict=True):
                if content == b"":  # the next time this one is asked for first, and alone
                    announced.object_ids.remove(object_id)
                    announced.object_ids.insert(0, object_id)
                    return None
                contents[object_id] = content
                _weigh(content, weights, max_bytes)
            if time.monotonic() > deadline:
                raise BadReplyError("its reply is in too many pieces to be pulled in time")
        return contents

    def _object(self, object_id: str) -> bytes:
        """A piece; empty if it has not come."""
        request = PullObjectRequest(
            node=self._grid.node, run_id=self._grid.run.run_id, object_id=object_id
        )
        answer = self._client.PullObject(request)
        if not answer.object_found:
            raise BadReplyError("a piece of its reply never came")
        return bytes(answer.object_content) if answer.object_available else b""

    def _done_with(self, message_id: str, announced: _Announced) -> None:
        self._announced.pop(message_id, None)
        self._confirm(announced.metadata.message_id)

    def _confirm(self, object_id: str) -> None:
        """Let the SuperLink drop the pieces."""
        self._client.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=self._grid.node, run_id=self._grid.run.run_id, message_object_id=object_id
            )
        )


def _ids(tree: ObjectTree, *, most: int) -> list[str]:
    """The ids of a tree, the root's first; empty if there are more than a good reply has."""
    found = list(dict.fromkeys(node.object_id for node in islice(iterate_object_tree(tree), most)))
    return found[::-1] if len(found) < most else []


def _batches(object_ids: list[str]) -> Iterator[list[str]]:
    """The message itself alone: as long as it is not there, nothing else is asked for."""
    yield object_ids[:1]
    rest = iter(object_ids[1:])
    while batch := list(islice(rest, 2 * AT_ONCE)):
        yield batch


def _weigh(content: bytes, weights: dict[str, int], max_bytes: int) -> None:
    kind = content.split(b" ", 1)[0]
    weights["all"] += len(content)
    if kind in (b"Array", b"ArrayRecord", b"RecordDict"):
        weights["tables"] += len(content)
    elif kind != b"ArrayChunk":
        weights["words"] += len(content)
    most = {"all": max_bytes, "tables": MAX_TABLE_BYTES, "words": MAX_WORDS_BYTES}
    for what, limit in most.items():
        if weights[what] > limit:
            raise BadReplyError(
                f"its reply of more than {limit} bytes ({what}) is more than any good one"
            )


def _check_unpacked(contents: dict[str, bytes], max_bytes: int) -> None:
    """Refuse arrays that name so many pieces, or one so often, that they grow beyond the bound."""
    unpacked = 0
    try:
        for content in contents.values():
            kind, children, _ = get_object_head_values_from_object_content(content)
            if kind == "Array":
                body = json.loads(content[content.index(b"\0") + 1 :])
                pieces = [children[number] for number in body["arraychunk_ids"]]
                unpacked += sum(len(contents[piece]) for piece in pieces)
    except Exception as error:  # whatever a hostile reply manages to raise
        raise BadReplyError(f"unreadable: {type(error).__name__}: {error}") from error
    if unpacked > max_bytes:
        raise BadReplyError(f"its reply unpacks to {unpacked} bytes; need at most {max_bytes}")


def _unpack(announced: _Announced, contents: dict[str, bytes]) -> Message:
    """The message, under the SuperLink's word for whose it is and not under its own."""
    try:
        found = inflate_object_from_contents(announced.metadata.message_id, contents)
        contents.clear()
        if not isinstance(found, flower.Message):
            raise BadReplyError(f"unreadable: it is no message but {type(found).__name__}")
        if found.has_error():
            return reply_from_flower(make_message(metadata=announced.metadata, error=found.error))
        if not isinstance(content := found.__dict__["_content"], flower.RecordDict):
            raise BadReplyError(f"unreadable: its content is {type(content).__name__}")
        return reply_from_flower(make_message(metadata=announced.metadata, content=content))
    except BadReplyError:
        raise
    except Exception as error:  # as above
        raise BadReplyError(f"unreadable: {type(error).__name__}: {error}") from error

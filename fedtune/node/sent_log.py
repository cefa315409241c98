"""A node's own log of what it has sent, which the server cannot write."""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from fedtune.deployment.node_keys import fingerprint_of_private
from fedtune.messages import wire
from fedtune.messages.node_errors import failure

SENT = Path("run") / "sent.jsonl"  # in a node's folder
MANIFEST, RECORD = "manifest", "record"  # in an order: see `binding_words`
_HASH = re.compile(r"[0-9a-f]{64}")


class Sent(BaseModel):
    """One delta that a node has sent.

    Attributes:
        round: Of the order that it answers.
        reply: The hash of all that was sent.
        anchor: The hash of the adapter that the node was given, worked out by itself.
        manifest: Which run it was sent to, by the hash of the run's manifest.
        record: The hash of the newest line of the run's record at that time.
        recipe: SHA-256 of the recipe as it came.
        key: The fingerprint of the node's own key.
        try_: Of the round, from 0.

    A log of an older fedtune has the first three alone, or all but the try.
    """

    round: NonNegativeInt
    reply: str
    anchor: str
    manifest: str | None = None
    record: str | None = None
    recipe: str | None = None
    key: str | None = None
    try_: NonNegativeInt | None = Field(default=None, alias="try")


class SentLog:
    """Writes a line for each delta, in the node's own folder."""

    def __init__(self, node: Path) -> None:
        self._path, key = node / SENT, node / "node.key"
        self._key = fingerprint_of_private(key.read_bytes()) if key.is_file() else None

    def note(self, order: Mapping[str, object], reply_hash: str, anchor_hash: object) -> None:
        """Write down what is about to be sent, on disk before this returns.

        Args:
            order: The server's words, the recipe as it came among them.
            reply_hash: Of the reply.
            anchor_hash: Of what it started from, worked out by this node.

        Raises:
            ValueError: If the order does not say which run, and which record of it, it is of.
        """
        words = {
            "round": order["round"],
            wire.TRY: wire.try_of(order),
            "reply": reply_hash,
            "anchor": anchor_hash,
            **{name: _hash_in(order, name) for name in (MANIFEST, RECORD)},
            "recipe": hashlib.sha256(str(order["recipe"]).encode()).hexdigest(),
            "key": self._key,
            "at": round(time.time(), 3),
        }
        line = json.dumps(words).encode() + b"\n"
        with self._path.open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # what a crash cut off must not swallow this one
                    line = b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def binding_words(manifest_hash: str, head: str) -> dict[str, str]:
    """What an order says of its run: a node that wrote it down can hold the record against it.

    Args:
        manifest_hash: Of the run's manifest, in which recipe and keys stand.
        head: Of the newest line of the record, which binds all lines before it.
    """
    return {MANIFEST: manifest_hash, RECORD: head}


def read_sent(node: Path) -> list[Sent]:
    """What a node has sent, in order; a line that a crash cut off is passed over.

    Raises:
        FileNotFoundError: If the node has not written down what it sent.
    """
    path = node / SENT
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: this node has sent nothing yet")
    with path.open("rb") as stream:
        return [said for line in stream if (said := _read(line)) is not None]


def _read(line: bytes) -> Sent | None:
    try:
        return Sent.model_validate_json(line)
    except ValidationError:
        return None


def _hash_in(order: Mapping[str, object], name: str) -> str:
    word = order.get(name)
    if not isinstance(word, str) or not _HASH.fullmatch(word):
        text = f"an order needs {name!r}, a SHA-256 in hex: this one binds no record"
        raise failure("no-record", text)
    return word

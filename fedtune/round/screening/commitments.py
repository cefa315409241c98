"""Commit, then reveal: each client is bound to its reply before anyone's reply is shown.

In a first step a client sends the hash of its reply, in a second the reply and the salt. Whoever
waits to see others first, to copy one or to answer to it, must by then have committed to something
else. The server must have closed the first step before it opens the second; that is the caller's.
Nothing here knows a round's loop, or whether a reply is any good: that is `screen`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from fedtune.messages.content_hash import hash_parts, parts_of
from fedtune.messages.message import ConfigRecord, Message, RecordDict
from fedtune.messages.wire import ABOUT
from fedtune.round.screening.screen import RefusedError, content_of

SALT_BYTES = 32
COMMITMENT, SALT = "commitment", "salt"
_DOMAIN = b"fedtune: a reply to one round, version 2"
_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Occasion:
    """What a commitment is for; it opens on no other.

    Attributes:
        run: The run's own name, the same for all of its clients and for no other run.
        round: Counted from 1.
        client: The client's number, as the server knows it and not as the client says.
        try_: Of the round, from 0.
    """

    run: str
    round: int
    client: int
    try_: int = 0


def commit(reply: RecordDict, salt: bytes, occasion: Occasion) -> str:
    """SHA-256 over occasion, salt and the canonical bytes of a reply, in hex.

    Args:
        reply: All records of the reply. Neither their order nor that of names within them counts;
            every bit of every array, word and metric does.
        salt: 32 bytes of chance, a client's own and new for each round: who could guess the reply
            could else confirm it by its hash.
        occasion: What it is for.

    Raises:
        ValueError: If the salt has another length.
        TypeError: If a record holds what Flower's would not.

    Source:
        Halevi and Micali 1996, https://doi.org/10.1007/3-540-68697-5_16. They hash the message and
        hide it behind a universal hash; here salt and message are hashed together, which binds by
        the same assumption, no collisions, and hides if SHA-256 is taken for a random oracle.
    """
    if type(salt) is not bytes or len(salt) != SALT_BYTES:
        raise ValueError(f"a commitment needs a salt of {SALT_BYTES} bytes")
    numbers = (occasion.round, occasion.try_, occasion.client)
    named = (_DOMAIN, occasion.run.encode(), *(b"%d" % number for number in numbers), salt)
    return hash_parts((*named, *parts_of(reply)))


def collect(
    sent: Iterable[tuple[int, object]], clients: Iterable[int]
) -> tuple[dict[int, str], dict[int, str]]:
    """What each client has committed to, once the first step is closed.

    Two clients with one and the same commitment both pass here: the server cannot know who copied
    whom. The copy does not open, for the client's number is in it.

    Args:
        sent: Client and what it sent, in any order, as often as it sent.
        clients: Who was asked.

    Returns:
        The commitments by client, and why the others are refused: who sent none, or more than one,
        even the same, or what is no hash.
    """
    by_client: dict[int, list[object]] = {client: [] for client in clients}
    for client, commitment in sent:
        if client in by_client:
            by_client[client].append(commitment)
    taken: dict[int, str] = {}
    refused: dict[int, str] = {}
    for client, found in sorted(by_client.items()):
        if len(found) != 1:
            refused[client] = f"it committed {len(found)} times; need one commitment"
        elif not isinstance(found[0], str) or not _HEX.fullmatch(found[0]):
            refused[client] = "its commitment is no SHA-256 in hex"
        else:
            taken[client] = found[0]
    return taken, refused


def commitment_reply(commitment: str) -> RecordDict:
    """What a client sends in the first step."""
    return RecordDict({ABOUT: ConfigRecord({COMMITMENT: commitment})})


def read_commitment(reply: Message) -> object:
    """What a client committed to, whatever it is: `collect` judges it.

    Raises:
        RefusedError: If the client failed, or sent something else.
    """
    content = content_of(reply)
    try:
        (words,) = content.values()
        return words[COMMITMENT]
    except Exception as error:  # whatever a hostile reply manages to raise
        raise RefusedError(f"it committed to nothing: {type(error).__name__}: {error}") from error


def with_salt(reply: RecordDict, salt: bytes) -> RecordDict:
    """What a client sends in the second step."""
    return RecordDict({**reply, SALT: ConfigRecord({SALT: salt})})


def without_salt(reply: RecordDict) -> RecordDict:
    """A reply of the second step as it was committed to."""
    return RecordDict({name: record for name, record in reply.items() if name != SALT})


def open_reply(content: RecordDict, commitment: str | None, occasion: Occasion) -> RecordDict:
    """The reply of the second step without its salt, held against the commitment.

    Raises:
        RefusedError: As `check` does, or if there is no salt.
    """
    try:
        words = dict(content[SALT]) if SALT in content else {}
        reply = without_salt(content)
    except Exception as error:  # as above
        raise RefusedError(f"unreadable: {type(error).__name__}: {error}") from error
    if set(words) != {SALT}:
        raise RefusedError(f"needs the record {SALT!r} with its salt alone")
    check(commitment, reply, words[SALT], occasion)
    return reply


def check(commitment: str | None, reply: RecordDict, salt: object, occasion: Occasion) -> None:
    """Hold a reply against what its client committed to.

    Args:
        commitment: The client's own, of this round; None if `collect` has none of it.
        reply: As it came, hostile until shown otherwise.
        salt: What came with it.
        occasion: The server's own words for run, round and client.

    Raises:
        RefusedError: If there is no commitment, the salt is none, or it does not open to this reply
            on this occasion: the reply was changed, or the commitment is of another client, round,
            try or run.
    """
    if commitment is None:
        raise RefusedError("it sent a reply without a commitment")
    if type(salt) is not bytes or len(salt) != SALT_BYTES:
        raise RefusedError(f"it opens its commitment with no salt of {SALT_BYTES} bytes")
    try:
        opened = commit(reply, salt, occasion)
    except Exception as error:  # whatever a hostile reply manages to raise
        raise RefusedError(f"unreadable: {type(error).__name__}: {error}") from error
    if opened != commitment:
        raise RefusedError(
            f"its reply is not what it committed to in round {occasion.round}: "
            f"need {commitment[:12]}, got {opened[:12]}",
            proves_fault=True,
        )

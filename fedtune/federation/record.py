"""The signed record of a run: what a participant can check without trusting the server's word.

Each line of ``metrics.jsonl`` holds the hash of the line before, the first that of the manifest.
On a real network the server signs the newest line's hash with the key of its certificate, and each
node writes down the hash of every delta that it sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, Field, NonNegativeInt, ValidationError

from fedtune.federation.folder import RunFolder, write_whole
from fedtune.recipe import Recipe

SIGNATURE = "signature.json"
SENT = Path("run") / "sent.jsonl"  # in a node's folder
_DOMAIN = b"fedtune: the record of a run, version 1\n"
_ALGORITHM = ec.ECDSA(hashes.SHA384())


class Counted(BaseModel):
    """What a line says of a client whose reply counts."""

    reply: str | None = None
    weight: float | None = None


class Line(BaseModel):
    """What is read of a line of ``metrics.jsonl``: it may be a stranger's."""

    previous: str
    round: NonNegativeInt
    anchor: str | None = None
    clients: dict[NonNegativeInt, Counted] = Field(default_factory=dict)
    refused: dict[NonNegativeInt, str] = Field(default_factory=dict)


class SentLog:
    """What a node has sent: a line for each delta, in the node's own folder."""

    def __init__(self, node: Path) -> None:
        self._path = node / SENT

    def note(self, round_: object, reply_hash: str, anchor_hash: object) -> None:
        """Write down the hashes of a delta and of what it started from, before it is sent."""
        words = {"round": round_, "reply": reply_hash, "anchor": anchor_hash}
        line = json.dumps(words).encode() + b"\n"
        with self._path.open("a+b") as stream:
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":  # what a crash cut off must not swallow this one
                    line = b"\n" + line
            stream.write(line)


def sign(folder: RunFolder, certificate: Path, key: Path) -> None:
    """Sign the newest line of a run's metrics, in place of what was signed before.

    Args:
        folder: The run's.
        certificate: Of the SuperLink, PEM.
        key: Its private key, EC, PEM.

    Raises:
        ValueError: If the key is no EC key.
    """
    private = serialization.load_pem_private_key(key.read_bytes(), password=None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError(f"{key} needs an EC private key: got another")
    head = folder.head()
    made = {
        "head": head,
        "signature": base64.b64encode(private.sign(_signed(head), _ALGORITHM)).decode(),
        "certificate": certificate.read_text(encoding="ascii"),
    }
    write_whole(folder.path / SIGNATURE, json.dumps(made, indent=2) + "\n")


def broken_links(folder: RunFolder) -> Iterator[str]:
    """Where a run's record does not hang together, a line each; nothing if it does."""
    if not folder.manifest.is_file() or not folder.metrics.is_file():
        yield f"{folder.path} needs manifest.json and metrics.jsonl: there is no record"
        return
    need = hashlib.sha256(folder.manifest.read_bytes()).hexdigest()
    before = "manifest.json"
    with folder.metrics.open("rb") as stream:
        for number, line in enumerate(stream):
            name = f"line {number + 1} of metrics.jsonl"
            try:
                said = Line.model_validate_json(line)
            except ValidationError:
                yield f"{name} is no line of a record"
                return
            if said.previous != need:
                yield f"{name} does not follow {before}: one of the two was changed"
            if said.round != number:
                yield f"{name} is of round {said.round}: need round {number}"
            need, before = hashlib.sha256(line).hexdigest(), name


def bad_signature(folder: RunFolder, authority: Path) -> str | None:
    """Why the newest line is not signed by the server of a deployment; None if it is.

    Args:
        folder: The run's.
        authority: ``ca.pem`` of the deployment, which every node has.
    """
    path = folder.path / SIGNATURE
    if not path.is_file():
        return f"{SIGNATURE} is not there: the record is not signed"
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        certificate = x509.load_pem_x509_certificate(said["certificate"].encode())
        issuer = x509.load_pem_x509_certificate(authority.read_bytes())
        certificate.verify_directly_issued_by(issuer)
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return f"{SIGNATURE} holds no EC certificate"
        key.verify(base64.b64decode(said["signature"]), _signed(said["head"]), _ALGORITHM)
    except InvalidSignature:
        return f"{SIGNATURE} was not made by the server of {authority}"
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{SIGNATURE} is no signature: {type(error).__name__}: {error}"
    if said["head"] != folder.head():
        return f"{SIGNATURE} signs another end of the record than metrics.jsonl has"
    return None


@dataclass(frozen=True)
class Fate:
    """What the record says of a client in one round.

    Attributes:
        round: Counted from 1.
        true: Whether that can be: a reply that is counted is one that the node has sent.
        same_start: Whether the record's anchor is the one that this node was given.
        weight: Its share in the round's step, 0 if the rule left it out; None: no reply counts.
        reason: Why it was refused; empty if it was not, or was not asked.
    """

    round: int
    true: bool
    same_start: bool
    weight: float | None
    reason: str


def trace(folder: RunFolder, recipe: Recipe, node: Path) -> tuple[int | None, list[Fate]]:
    """As which client a record counts a node, and what it says of that client round by round.

    Args:
        folder: The run's; nothing is broken in its record.
        recipe: The run's.
        node: The node's folder.

    Returns:
        The client's number, that of most of the deltas that the node has sent, and its fates; None
        and no fate if the record counts none of them.

    Raises:
        FileNotFoundError: If the node has not written down what it sent.
    """
    path = node / SENT
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there: this node has sent nothing yet")
    with path.open("rb") as stream:
        sent = dict(said for line in stream if (said := _sent(line)) is not None)
    with folder.metrics.open("rb") as stream:
        lines = [line for each in stream if (line := Line.model_validate_json(each)).round]
    known = Counter(
        client
        for line in lines
        for client, facts in line.clients.items()
        if (line.round, facts.reply) in sent
    )
    if not known:
        return None, []
    (client, _), *_ = known.most_common()
    # Who has a lower rank than the server starts from an anchor of its own.
    whole = recipe.lora.rank_of(client) == recipe.lora.r
    return client, [_fate(line, client, sent, whole) for line in lines]


def _sent(line: bytes) -> tuple[tuple[int, str | None], str] | None:
    """Round, reply and anchor of what a node has sent; None if a crash cut the line off."""
    try:
        said = json.loads(line)
        return (int(said["round"]), str(said["reply"])), str(said["anchor"])
    except (ValueError, LookupError, TypeError):
        return None


def _fate(line: Line, client: int, sent: dict[tuple[int, str | None], str], whole: bool) -> Fate:
    facts = line.clients.get(client)
    if facts is None:
        return Fate(line.round, True, True, None, line.refused.get(client, ""))
    start = sent.get((line.round, facts.reply))
    same = not whole or start is None or start == line.anchor
    return Fate(line.round, start is not None, same, facts.weight, "")


def _signed(head: str) -> bytes:
    return _DOMAIN + head.encode()

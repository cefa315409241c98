"""The signed record of a run: what a participant can check without trusting the server's word.

Each line of ``metrics.jsonl`` holds the hash of the line before, the first that of the manifest.
On a real network the server signs the newest line's hash with the key of its certificate, and each
node writes down the hash of every delta that it sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedtune.federation.folder import RunFolder, write_whole

SIGNATURE = "signature.json"
SENT = Path("run") / "sent.jsonl"  # in a node's folder
_DOMAIN = b"fedtune: the record of a run, version 1\n"
_ALGORITHM = ec.ECDSA(hashes.SHA384())


class SentLog:
    """What a node has sent: a line for each delta, in the node's own folder."""

    def __init__(self, node: Path) -> None:
        self._path = node / SENT

    def note(self, round_: object, reply_hash: str) -> None:
        """Write a delta's hash down, before it is sent."""
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"round": round_, "reply": reply_hash}) + "\n")


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
        for number, line in enumerate(stream, 1):
            name = f"line {number} of metrics.jsonl"
            try:
                said = json.loads(line)["previous"]
            except (ValueError, KeyError, TypeError):
                yield f"{name} is no line of a record"
                return
            if said != need:
                yield f"{name} does not follow {before}: one of the two was changed"
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
        weight: Its share in the round's step, 0 if the rule left it out; None: no reply counts.
        reason: Why it was refused; empty if it was not, or was not asked.
    """

    round: int
    true: bool
    weight: float | None
    reason: str


def trace(folder: RunFolder, node: Path) -> tuple[int | None, list[Fate]]:
    """As which client a record counts a node, and what it says of that client round by round.

    Args:
        folder: The run's.
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
    with path.open(encoding="utf-8") as stream:
        sent = {(said["round"], said["reply"]) for said in map(json.loads, stream)}
    records = [record for record in folder.read_metrics() if record["round"] > 0]
    known = Counter(
        client
        for record in records
        for client, facts in record.get("clients", {}).items()
        if (record["round"], facts.get("reply")) in sent
    )
    if not known:
        return None, []
    (client, _), *_ = known.most_common()
    return int(client), [_fate(record, client, sent) for record in records]


def _fate(record: dict[str, Any], client: str, sent: set[tuple[object, str]]) -> Fate:
    facts = record.get("clients", {}).get(client)
    if facts is None:
        return Fate(record["round"], True, None, record.get("refused", {}).get(client, ""))
    true = (record["round"], facts.get("reply")) in sent
    return Fate(record["round"], true, facts.get("weight"), "")


def _signed(head: str) -> bytes:
    return _DOMAIN + head.encode()

"""The signed record of a run: what a participant can check without trusting the server's word.

Each line of ``metrics.jsonl`` holds the hash of the line before, the first that of the manifest.
On a real network the server signs the newest line's hash with the key of its certificate. What
binds the record against the server itself is in ``trust``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import Field

from fedtune.durable import read_whole, write_whole
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord, read_as

SIGNATURE = "signature.json"
_DOMAIN = b"fedtune: the record of a run, version 1\n"
_ALGORITHM = ec.ECDSA(hashes.SHA384())


class Line(RoundRecord):
    """A record with the hash of its line, which the next one holds in ``previous``."""

    hash: str = Field(default="", exclude=True)
    previous: str


def read_line(line: bytes) -> Line:
    """Read a line that is written as a run writes it, byte for byte.

    A key that is given twice, or a number in another spelling, would be one thing to one reader
    and another to the next.

    Raises:
        ValueError: If it is no such line.
    """
    try:
        plain = json.loads(line)
        written = json.dumps(plain, allow_nan=False).encode() + b"\n"
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if written != line:
        raise ValueError("it is written in another way")
    said = read_as(Line, line)  # "1", 1.0 and true are no round 1
    numbered = [plain.get(key, ()) for key in ("anchors", "clients", "refused")]
    numbered += [each.get("clients", ()) for each in plain.get("void", ())]
    if any(str(int(name)) != name for names in numbered for name in names):
        raise ValueError("its clients and ranks need plain numbers")
    return said.model_copy(update={"hash": hashlib.sha256(line).hexdigest()})


def read_lines(folder: RunFolder) -> list[Line]:
    """All lines of a record in which nothing is broken.

    Raises:
        ValueError: If a line is none.
    """
    return [read_line(line) for line in folder.written_lines()]


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
    try:
        need, lines = folder.manifest_hash(), folder.written_lines()
    except ValueError as error:
        yield f"there is no record: {error}"
        return
    if not lines:
        yield f"{folder.metrics} holds no line: there is no record"
    before = "manifest.json"
    for number, line in enumerate(lines):
        name = f"line {number + 1} of metrics.jsonl"
        try:
            said = read_line(line)
        except ValueError:
            yield f"{name} is no line of a record"
            return
        if said.previous != need:
            yield f"{name} does not follow {before}: one of the two was changed"
        if said.round != number:
            yield f"{name} is of round {said.round}: need round {number}"
        need, before = said.hash, name


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
        said = json.loads(read_whole(path))
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
        return f"{SIGNATURE} is no signature: {type(error).__name__}"
    if said["head"] != folder.head():
        return f"{SIGNATURE} signs another end of the record than metrics.jsonl has"
    return None


def _signed(head: str) -> bytes:
    return _DOMAIN + head.encode()

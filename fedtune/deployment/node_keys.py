"""The keys by which the SuperLink knows its nodes: ECDSA on P-384, as OpenSSH writes them."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


def new_node_key(comment: str) -> tuple[bytes, str]:
    """Make a node's key pair, as `ssh-keygen -t ecdsa -b 384 -N ''` would.

    Args:
        comment: Stands behind the public key; means nothing.

    Returns:
        The private key in OpenSSH's format, and the public key, one line without its end.

    Source:
        Flower's SuperNode reads the one with `load_ssh_private_key`, its registration the other
        with `load_ssh_public_key`; both take NIST curves only.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return private, f"{public.decode('ascii')} {comment}"


@lru_cache(maxsize=4096)
def public_key_pem(line: str) -> bytes:
    """A node's public key as the SuperLink stores it and lists it with the node.

    Args:
        line: The key in OpenSSH's format; a comment behind it means nothing.

    Returns:
        The same key as SubjectPublicKeyInfo in PEM: equal bytes for equal keys.

    Raises:
        ValueError: If it is no public key on a NIST curve.
    """
    try:
        key = serialization.load_ssh_public_key(line.encode("utf-8"))
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, _CURVES):
        raise ValueError(
            f"needs a public key on a NIST curve in OpenSSH's format: got {line[:40]!r}; "
            "make one with: ssh-keygen -t ecdsa -b 384 -N '' -f node.key"
        )
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def fingerprint(line: str) -> str:
    """SHA-256 of a node's public key, in hex, whatever comment stands behind it.

    Raises:
        ValueError: If it is no public key on a NIST curve.
    """
    return hashlib.sha256(public_key_pem(line)).hexdigest()


def fingerprint_of_private(private: bytes) -> str:
    """The fingerprint of the public half of a node's key, in OpenSSH's format.

    Raises:
        ValueError: If it is no such key, or has a passphrase.
    """
    try:
        key = serialization.load_ssh_private_key(private, password=None)
    except (TypeError, UnsupportedAlgorithm) as error:  # a TypeError: it has a passphrase
        raise ValueError(f"needs a private key without a passphrase: {error}") from error
    public = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return fingerprint(public.decode("ascii"))

"""The deployment's own certificate authority, and the certificate that the SuperLink shows."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

MAX_DAYS = 3650
# The nodes keep the authority's certificate: it outlasts the server's, which is then renewed alone.
_AUTHORITY_DAYS = 2 * MAX_DAYS
_EARLIER = timedelta(days=1)  # a node whose clock is late by less still takes the certificate
# What every SuperLink also answers to: a rehearsal on loopback, and its name in compose.yaml.
ALWAYS = ("localhost", "superlink", "127.0.0.1", "::1")
_LABEL = re.compile(r"(?!-)[a-z0-9-]{1,63}(?<!-)")


def check_host(host: str) -> str:
    """Say whether nodes could dial a host, and how it is written.

    Args:
        host: An IP address, or a DNS name.

    Returns:
        The same host as certificates and addresses have it: lower case, an IPv6 address short.

    Raises:
        ValueError: If it is neither, or an address that no one can dial.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return _check_name(host)
    if address.is_unspecified or address.is_multicast or getattr(address, "scope_id", None):
        raise ValueError(
            f"--host needs the address that the nodes dial: got {host}, which means no one "
            "machine; give the machine's own address or name"
        )
    return address.compressed


def _check_name(host: str) -> str:
    labels = host.lower().split(".")
    good = len(host) <= 253 and all(_LABEL.fullmatch(label) for label in labels)
    if not good or labels[-1].isdigit():  # else 10.0.0.256 would pass for a name
        raise ValueError(
            f"--host needs an IP address or a DNS name: got {host!r}; give what the nodes dial, "
            "without scheme or port (another script's name in punycode)"
        )
    return host.lower()


def new_authority() -> tuple[bytes, bytes]:
    """Make a certificate authority for one deployment.

    Returns:
        Its certificate and its private key (EC, P-384), in PEM. The key signs the server's
        certificate once, and is needed again only to renew that.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    usage = {"key_cert_sign": True, "crl_sign": True}
    builder = _builder("fedtune deployment", _name("fedtune deployment"), key, _AUTHORITY_DAYS)
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(**usage), critical=True)
        .sign(key, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def new_server_certificate(
    authority: bytes, authority_key: bytes, *, host: str, days: int
) -> tuple[bytes, bytes]:
    """Make the certificate by which nodes know the SuperLink.

    Args:
        authority: The certificate of ``new_authority``, PEM.
        authority_key: Its private key, PEM.
        host: What the nodes dial, as ``check_host`` writes it.
        days: For how long it holds, 1 to 3650.

    Returns:
        The certificate and its private key (EC, P-384), in PEM. It holds for ``host``, 127.0.0.1,
        ::1, localhost, and superlink, which is its name among the services of compose.yaml.

    Raises:
        ValueError: If ``days`` is out of bounds, or a PEM is none.

    Source:
        RFC 5280, https://www.rfc-editor.org/rfc/rfc5280
    """
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"--days needs 1 to {MAX_DAYS}: got {days}; renew the certificate instead")
    issuer = x509.load_pem_x509_certificate(authority)
    issuer_key = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(issuer_key, ec.EllipticCurvePrivateKey):
        raise ValueError("ca.key needs an EC private key: got another; put back the one made here")
    if issuer_key.public_key() != issuer.public_key():
        raise ValueError("ca.key is not the key of ca.pem: put back the one that was made with it")
    key = ec.generate_private_key(ec.SECP384R1())
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    certificate = (
        _builder("fedtune SuperLink", issuer.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(_names([host, *ALWAYS])), critical=False)
        .add_extension(identifier, critical=False)
        .sign(issuer_key, hashes.SHA384())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)


def _builder(
    subject: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _names(hosts: Iterable[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            found.append(x509.DNSName(host))
    return found


def _usage(**wanted: bool) -> x509.KeyUsage:
    every = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment",
        "key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{name: wanted.get(name, False) for name in every})


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )

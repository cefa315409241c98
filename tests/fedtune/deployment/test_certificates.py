"""The authority and the SuperLink's certificate: verified, and used in real TLS handshakes.

Not proven here: that Flower's own client takes them (test_superlink_with_nodes.py does that).
"""

import ipaddress
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedtune.deployment.certificates import check_host, new_authority, new_server_certificate


@pytest.fixture(scope="module")
def pems():
    """(authority, its key, certificate, its key), for fed.example.org and a year."""
    ca, ca_key = new_authority()
    return ca, ca_key, *new_server_certificate(ca, ca_key, host="fed.example.org", days=365)


def verify(ca, certificate, subject, at=None):
    store = Store([x509.load_pem_x509_certificate(ca)])
    builder = PolicyBuilder().store(store).time(at or datetime.now(UTC))
    leaf = x509.load_pem_x509_certificate(certificate)
    return builder.build_server_verifier(subject).verify(leaf, [])


@pytest.mark.parametrize(
    "subject",
    [
        x509.DNSName("fed.example.org"),
        x509.DNSName("localhost"),
        x509.DNSName("superlink"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        x509.IPAddress(ipaddress.ip_address("::1")),
    ],
)
def test_the_chain_holds_for_each_name(pems, subject):
    ca, _, certificate, _ = pems
    chain = verify(ca, certificate, subject)
    assert [each.subject.rfc4514_string() for each in chain] == [
        "CN=fedtune SuperLink",
        "CN=fedtune deployment",
    ]


def test_the_chain_holds_for_no_other_name_authority_or_time(pems):
    ca, _, certificate, _ = pems
    own = x509.DNSName("fed.example.org")
    with pytest.raises(VerificationError):
        verify(ca, certificate, x509.DNSName("other.example.org"))
    with pytest.raises(VerificationError):
        verify(ca, certificate, x509.IPAddress(ipaddress.ip_address("127.0.0.2")))
    with pytest.raises(VerificationError):
        verify(new_authority()[0], certificate, own)
    now = datetime.now(UTC)
    verify(ca, certificate, own, now - timedelta(hours=23))  # a clock that is late
    verify(ca, certificate, own, now + timedelta(days=364))
    with pytest.raises(VerificationError):
        verify(ca, certificate, own, now + timedelta(days=366))


def test_the_authority_signs_certificates_and_the_server_none(pems):
    ca, _, certificate, _ = (x509.load_pem_x509_certificate(p) if b"CERT" in p else p for p in pems)
    constraints = ca.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)
    own = certificate.extensions
    assert own.get_extension_for_class(x509.BasicConstraints).value.ca is False
    assert own.get_extension_for_class(x509.KeyUsage).value.key_cert_sign is False
    for each in (ca, certificate):
        assert isinstance(each.public_key().curve, ec.SECP384R1)
    # Renewed to the last day that may be asked for, the server's never outlives the authority's.
    assert ca.not_valid_after_utc > certificate.not_valid_after_utc + timedelta(days=3650)


def handshake(tmp_path, pems, trusted, name):
    """Shake hands over loopback, with the files as Flower would have them; what the client read."""
    (tmp_path / "server.pem").write_bytes(pems[2])
    (tmp_path / "server.key").write_bytes(pems[3])
    (tmp_path / "ca.pem").write_bytes(trusted)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    client = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

        def answer():
            raw, _ = listener.accept()
            try:
                with server.wrap_socket(raw, server_side=True) as wrapped:
                    wrapped.sendall(b"hello")
            except (ssl.SSLError, OSError):  # the client has hung up
                raw.close()

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with (
                socket.create_connection(listener.getsockname(), timeout=10) as raw,
                client.wrap_socket(raw, server_hostname=name) as wrapped,
            ):
                return wrapped.recv(5)
        finally:
            thread.join(10)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "fed.example.org"])
def test_a_client_with_the_authority_shakes_hands(tmp_path, pems, name):
    assert handshake(tmp_path, pems, pems[0], name) == b"hello"


def test_a_client_with_another_authority_or_name_does_not(tmp_path, pems):
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate"):
        handshake(tmp_path, pems, new_authority()[0], "localhost")
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example\.org"):
        handshake(tmp_path, pems, pems[0], "other.example.org")


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("localhost", "localhost"),
        ("Fed.Example.ORG", "fed.example.org"),
        ("2001:0DB8::0001", "2001:db8::1"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
    ],
)
def test_hosts_that_can_be_dialled(host, written):
    assert check_host(host) == written


@pytest.mark.parametrize(
    "host",
    [
        "", " ", "a b", "https://fed.example.org", "fed.example.org:9443", "fed.example.org.",
        "10.0.0.256", "1.2.3", "-a.example", "a-.example", "a_b.example", "a..b", "bücher.example",
        "a" * 64 + ".b", ".".join(["a" * 60] * 5), "0.0.0.0", "::", "224.0.0.1", "fe80::1%eth0",
        "$(reboot)", "fed;reboot", "fed\nexample",
    ],
)  # fmt: skip
def test_hosts_that_cannot(host):
    with pytest.raises(ValueError, match=r"^--host needs .*: got .*; give"):
        check_host(host)


@pytest.mark.parametrize("days", [0, -1, 3651])
def test_days_out_of_bounds(pems, days):
    with pytest.raises(ValueError, match=f"--days needs 1 to 3650: got {days}"):
        new_server_certificate(pems[0], pems[1], host="localhost", days=days)


def test_a_key_of_another_authority_signs_nothing(pems):
    with pytest.raises(ValueError, match=r"ca.key is not the key of ca.pem"):
        new_server_certificate(pems[0], new_authority()[1], host="localhost", days=1)

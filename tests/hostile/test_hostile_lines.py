"""Lines between a node and its SuperLink that someone else holds: TLS, names, drips.

The SuperLink's own server (`listening.server_of`, the gate) on loopback in a thread, and the client
that Flower's SuperNode dials with. What a whole node does: test_start_scripts.py.
"""

import asyncio
import socket
import ssl
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.protobuf.client import ProtobufClient
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedtune.deployment import gate as gates
from fedtune.deployment.connections import Connections, Listener
from fedtune.deployment.folder import DeploymentFolder
from fedtune.deployment.gate import Gate
from fedtune.transport.flower import guard
from fedtune.transport.flower.listening import server_of

OLD = "ALL:@SECLEVEL=0"  # what OpenSSL has to be told to speak TLS 1.0 and 1.1 at all


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    return DeploymentFolder.create(tmp_path_factory.mktemp("tls") / "fed", 1, "localhost", 9443)


@pytest.fixture(scope="module")
def another(tmp_path_factory):
    """Of another authority."""
    return DeploymentFolder.create(tmp_path_factory.mktemp("tls") / "other", 1, "localhost", 9443)


class Heard:
    """The app behind the gate: what came to it."""

    def __init__(self):
        self.paths = []

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        self.paths.append(scope["path"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"heard"})


async def a_node(scope):
    """Takes every request for one node's."""
    return b"key"


@contextmanager
def serving(deployment=None, *, host="127.0.0.1"):
    """The gate on a port of its own, with a deployment's certificate or in the clear."""
    heard, connections = Heard(), Connections(99, 99)
    options = {"log_config": None, "lifespan": "off"}
    if deployment is not None:
        options["ssl_certfile"] = str(deployment.server_certificate)
        options["ssl_keyfile"] = str(deployment.server_key)
    server = server_of(Gate(heard, judge=a_node, connections=connections), **options)
    with Listener(host, 0, connections) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield heard, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


def dial(address, authority):
    """The first thing that a SuperNode asks."""
    client = FleetHttpClient.from_server_address(
        server_address=address,
        insecure=False,
        root_certificates=authority.read_bytes(),
        interceptors=[],
    )
    with client._client:
        client.ActivateNode(ActivateNodeRequest(public_key=b"key"))


def test_a_node_hears_its_own_server_and_no_other_authoritys(deployment, another):
    with serving(deployment) as (heard, port):
        with suppress(Exception):  # the answer is none of Flower's
            dial(f"localhost:{port}", deployment.ca)
        assert heard.paths == ["/v1/fleet/activate-node"]
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            dial(f"localhost:{port}", another.ca)
        assert len(heard.paths) == 1


def test_a_certificate_for_another_name_is_none(tmp_path, deployment):
    elsewhere = DeploymentFolder.create(tmp_path / "fed", 1, "federation.example.org", 9443)
    with (
        serving(elsewhere, host="127.0.0.2") as (heard, port),
        pytest.raises(httpx.ConnectError, match=r"mismatch|not valid for"),
    ):
        dial(f"127.0.0.2:{port}", elsewhere.ca)
    assert heard.paths == []


def handshake(port, authority, version):
    context = ssl.create_default_context(cafile=str(authority))
    context.minimum_version = context.maximum_version = version
    context.set_ciphers(OLD)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as line,
    ):
        return line.version()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_the_server_speaks_no_tls_of_before_1_2(deployment, monkeypatch):
    load = ssl.SSLContext.load_cert_chain

    def as_a_lax_machine(context, *words, **named):
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.set_ciphers(OLD)
        load(context, *words, **named)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", as_a_lax_machine)
    with serving(deployment) as (_, port):
        for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, OSError)):
                handshake(port, deployment.ca, version)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            assert handshake(port, deployment.ca, version) == version.name.replace("_", ".")


@contextmanager
def answering(reply, context=None):
    """A server that answers whatever comes with these bytes, and keeps what came."""
    came = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            with suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    plain.settimeout(5)
                    with suppress(OSError), plain:
                        line = context.wrap_socket(plain, server_side=True) if context else plain
                        came.append(line.recv(2**16))
                        line.settimeout(0.3)  # what is left unread would cut the answer off
                        with suppress(TimeoutError):
                            while line.recv(2**16):
                                pass
                        line.sendall(reply)
                        line.close()

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1], came
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_node_is_not_talked_down_to_an_old_tls(deployment):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(deployment.server_certificate, deployment.server_key)
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    context.set_ciphers(OLD)
    with answering(b"", context) as (port, came):
        with pytest.raises(httpx.ConnectError):
            dial(f"localhost:{port}", deployment.ca)
        assert came == []


def test_a_node_says_nothing_in_the_clear(deployment):
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (port, came):
        with pytest.raises(httpx.ConnectError):
            dial(f"localhost:{port}", deployment.ca)
        assert came
        assert all(said[:1] == b"\x16" and b"/v1/" not in said for said in came)  # a hello of TLS


@pytest.fixture
def redirected(deployment):
    """A server that sends whoever asks elsewhere, in the clear; its port, and what came there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(deployment.server_certificate, deployment.server_key)
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as (other, elsewhere):
        where = f"location: http://127.0.0.1:{other}/any/path".encode()
        told = b"HTTP/1.1 307 Temporary Redirect\r\ncontent-length: 0\r\n" + where + b"\r\n\r\n"
        with answering(told, context) as (port, _):
            yield f"localhost:{port}", elsewhere


def test_flower_itself_follows_a_server_anywhere(deployment, redirected):
    """Why there is a guard; should this fail, Flower has mended it."""
    address, elsewhere = redirected
    with suppress(httpx.HTTPError):
        dial(address, deployment.ca)
    assert elsewhere[0].startswith(b"POST /any/path HTTP/1.1")


def test_a_node_follows_its_server_nowhere(deployment, redirected, monkeypatch):
    address, elsewhere = redirected
    told = []

    def supernode():
        with pytest.raises(httpx.HTTPStatusError, match="307") as refused:
            dial(address, deployment.ca)
        told.append(str(refused.value))

    monkeypatch.setattr(ProtobufClient, "__init__", ProtobufClient.__init__)  # put back afterwards
    monkeypatch.setattr(guard, "OwnLines", lambda: None)
    monkeypatch.setattr("flwr.supernode.cli.flower_supernode", supernode)
    guard.run_node()
    assert len(told) == 1
    assert elsewhere == []


def test_http_in_the_clear_on_the_port_of_tls_reaches_nothing(deployment):
    with serving(deployment) as (heard, port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as line:
            line.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\ncontent-length: 0\r\n\r\n")
            with suppress(ConnectionError):
                assert b"HTTP" not in line.recv(2**16)
        assert heard.paths == []


PULL = b"POST /v1/fleet/%s HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


def test_a_body_in_drips_ends_at_its_deadline_and_others_are_heard(monkeypatch):
    monkeypatch.setattr(gates, "GRACE_S", 1.0)
    with serving() as (heard, port), socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(0.05)
        slow.sendall(PULL % (b"push-object", 1000))
        began, told, waits = time.monotonic(), b"", []
        while not told and time.monotonic() - began < 20:
            with suppress(TimeoutError):
                slow.sendall(b"x")  # twenty bytes a second: never silent, and 50 s to the end
                told = slow.recv(2**16)
            asked = time.monotonic()
            with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
                other.sendall(PULL % (b"pull-messages", 2) + b"{}")
                assert other.recv(2**16).startswith(b"HTTP/1.1 200")
            waits.append(time.monotonic() - asked)
        took_s = time.monotonic() - began
        assert told.startswith(b"HTTP/1.1 408")
        assert 1.0 <= took_s < 10  # a deadline of 1 s and 1000/8192 s
        assert "/v1/fleet/push-object" not in heard.paths
        assert min(waits) < 0.5


def test_one_keys_drips_take_no_more_than_its_share(monkeypatch):
    """As many at once as a key may have; the next is told to ask again, and none is served."""
    monkeypatch.setattr(gates, "GRACE_S", 5.0)
    monkeypatch.setattr(gates, "BUSY_S", 0.05)
    with serving() as (heard, port):
        lines = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(17)]
        for line in lines[:-1]:
            line.sendall(PULL % (b"push-object", 100) + b"x")
        time.sleep(0.5)
        lines[-1].sendall(PULL % (b"push-object", 100) + b"x")
        assert lines[-1].recv(2**16).startswith(b"HTTP/1.1 503")
        for line in lines:
            line.close()
        assert heard.paths == []


def test_deadlines_of_the_gate_are_those_of_the_docs():
    """A piece of 5 MiB may take 30 s and 648 s more: 8 KiB a second."""
    assert (gates.GRACE_S, gates.BYTES_PER_S) == (30.0, 8192)
    assert gates.GRACE_S + gates.MAX_PIECE_BYTES / gates.BYTES_PER_S == 678.0
    assert asyncio.iscoroutinefunction(gates._body)

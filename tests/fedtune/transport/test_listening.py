"""uvicorn behind our listener, with real sockets and no TLS: heads are brief, no one is silent."""

import socket
import threading
import time

import pytest
import uvicorn
from ports import free_port

from fedtune.deployment import connections as module
from fedtune.deployment.connections import Connections
from fedtune.transport.flower import listening


@pytest.fixture
def port(monkeypatch):
    """Where an app listens that answers every request with 200."""
    monkeypatch.setattr(module, "SILENT_S", 0.5)
    monkeypatch.setattr(listening, "_LOOK_S", 0.05)
    connections, servers = Connections(20, 20), []

    async def app(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            async with listening.hanging_up(connections):
                await send({"type": "lifespan.startup.complete"})
                await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    made = uvicorn.Server

    def noted(config):
        servers.append(made(config))
        return servers[0]

    monkeypatch.setattr(listening.uvicorn, "Server", noted)
    port = free_port()
    run = listening.uvicorn_on(connections).run
    options = {"host": "127.0.0.1", "port": port, "log_level": "critical"}
    serving = threading.Thread(target=run, args=(app,), kwargs=options)
    serving.start()
    deadline = time.monotonic() + 30
    while not (servers and servers[0].started) and time.monotonic() < deadline:
        time.sleep(0.01)
    yield port
    servers[0].should_exit = True
    serving.join(30)


def ask(port, content):
    """What comes back until the other side hangs up, or has answered."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        try:
            connection.sendall(content)
            return connection.recv(2**16)
        except ConnectionError:
            return b""


def test_a_head_is_brief(port):
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nA: "
    assert ask(port, head + b"a" * 1000 + b"\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert ask(port, head + b"a" * 2**23) == b""
    assert ask(port, head.replace(b"/ ", b"/" + b"a" * 2**20)) == b""


def test_a_body_may_be_longer_than_a_head(port):
    body = bytes(3 * listening.MAX_HEAD_BYTES)
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert ask(port, 2 * (head + body)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("said", [b"", b"POST / HTTP/1.1\r\nHost: "])
def test_who_asks_for_nothing_is_hung_up_on(port, said):
    began = time.monotonic()
    assert ask(port, said) == b""
    assert 0.4 < time.monotonic() - began < 10


def test_an_upgrade_is_no_way_around(port):
    upgrade = (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert ask(port, upgrade).startswith(b"HTTP/1.1 200")


def test_a_port_that_is_taken_ends_it_in_a_line():
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        port = there.getsockname()[1]
        with pytest.raises(SystemExit, match=f"cannot listen on 127.0.0.1:{port}: .*in use"):
            listening.uvicorn_on(Connections(1, 1)).run(None, host="127.0.0.1", port=port)

"""Connections are counted as they are accepted, and the silent are hung up on: real sockets."""

import asyncio
import socket
import time
from contextlib import suppress

import pytest

from fedtune.deployment import connections as module
from fedtune.deployment.connections import Connections, Listener
from fedtune.transport.flower.listening import connections_for


class Socket:
    """Notes that it was shut down."""

    def __init__(self):
        self.down = 0

    def shutdown(self, how):
        self.down += 1


def fill(connections, host, count, port=1000):
    return [connections.take((host, port + number), Socket()) for number in range(count)]


def test_an_address_has_so_many_and_all_together_have_so_many():
    connections = Connections(5, 2)
    assert fill(connections, "192.0.2.1", 3) == [True, True, False]
    assert fill(connections, "192.0.2.2", 3) == [True, True, False]
    assert fill(connections, "192.0.2.3", 2) == [True, False]  # five in all


def test_this_machine_keeps_its_own_however_many_come_from_elsewhere():
    connections = Connections(3, 3)
    assert not all(fill(connections, "192.0.2.1", 4))
    for number, host in enumerate(("127.0.0.1", "::1", "::ffff:127.0.0.1")):
        assert fill(connections, host, 1, number) == [True]
    assert fill(connections, "127.0.0.1", 1, 9) == [False]


def test_what_is_closed_makes_room_once():
    connections = Connections(9, 1)
    first, second = Socket(), Socket()
    peer = ("192.0.2.1", 7)
    assert connections.take(peer, first)
    connections.gone(peer, second)  # one that was never taken
    assert not connections.take(("192.0.2.1", 8), second)
    connections.gone(peer, first)
    assert connections.take(peer, second)  # the same port, opened anew
    connections.gone(peer, first)  # closed a second time
    assert not connections.take(("192.0.2.1", 8), first)


def test_the_silent_are_hung_up_on_and_those_at_work_are_not(monkeypatch):
    now = [time.monotonic()]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    connections, sockets = Connections(9, 9), [Socket(), Socket()]
    for port, each in enumerate(sockets):
        connections.take(("192.0.2.1", port), each)
    now[0] += 1
    with connections.at_work(("192.0.2.1", 1)):
        now[0] += 2 * module.SILENT_S
        assert connections.hang_up_on_the_silent() == 1
        assert [each.down for each in sockets] == [1, 0]
    assert connections.hang_up_on_the_silent() == 1  # the first still: it was not closed yet
    now[0] += module.SILENT_S + 1
    assert connections.hang_up_on_the_silent() == 2
    with connections.at_work(None), connections.at_work(("192.0.2.9", 1)):
        pass  # of no connection that was counted


def test_a_listener_takes_what_is_allowed_and_sees_it_go(monkeypatch):
    """127.0.0.2 plays another machine: only then is an address bounded."""
    monkeypatch.setattr(module, "address_of", lambda peer: None)

    async def play():
        connections = Connections(9, 2)

        async def answer(reader, writer):
            writer.write(await reader.read(1))
            await writer.drain()
            await reader.read()
            writer.close()

        with Listener("127.0.0.1", 0, connections) as listener:
            port = listener.getsockname()[1]
            server = await asyncio.start_server(answer, sock=listener)
            async with server:
                opened = [await dial(port) for _ in range(4)]
                heard = [await asked(*each) for each in opened]
                await hang_up(opened)
                while connections._open:
                    await asyncio.sleep(0.01)
                opened = [await dial(port)]
                again = await asked(*opened[0])
                await hang_up(opened)
        return heard, again

    heard, again = asyncio.run(asyncio.wait_for(play(), 20))
    assert sorted(heard) == [b"", b"", b"x", b"x"]
    assert again == b"x"


async def dial(port):
    return await asyncio.open_connection("127.0.0.1", port)


async def hang_up(opened):
    for _, writer in opened:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def asked(reader, writer):
    """What comes back; nothing from who hung up."""
    try:
        writer.write(b"x")
        return await reader.read(1)
    except ConnectionError:
        return b""


def test_a_port_that_is_taken_is_said():
    with socket.socket() as there:
        there.bind(("127.0.0.1", 0))
        there.listen()
        with pytest.raises(OSError, match="in use"):
            Listener("127.0.0.1", there.getsockname()[1], Connections(1, 1))


def test_the_bounds_grow_with_the_nodes_and_stay_within_the_files():
    few, many = connections_for(3), connections_for(200)
    assert few._most_per_address == 64 + 4 * 3
    assert few._most < many._most <= 1024 + 4 * 200
    assert connections_for(10**6)._most <= 2**15

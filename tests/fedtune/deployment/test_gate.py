"""The gate as an ASGI app; test_gated_superlink.py puts it before Flower's SuperLink."""

import asyncio
import time
from collections import Counter

import pytest

from fedtune.deployment import gate as gates
from fedtune.deployment.connections import Connections
from fedtune.deployment.gate import MAX_BODY_BYTES, MAX_PIECE_BYTES, Gate
from fedtune.deployment.pace import Pace

FAR, HERE = "198.51.100.7", "192.0.2.1"
PULL, PIECE = "/v1/fleet/pull-messages", "/v1/fleet/push-object"
KEY = b"a node's key"


async def a_node(scope):
    """A judge who takes every request for a node's."""
    return KEY


async def no_one(scope):
    """A judge who takes none for one."""
    return


async def echo(scope, receive, send):
    """An app that answers 200 and what it was sent."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    await send({"status": 200, "body": body})


def scope_of(path, client=FAR, *, server=HERE, length=b"10", kind="http", headers=()):
    return {
        "type": kind,
        "path": path,
        "client": client and (client, 5000),
        "server": server and (server, 9443),
        "headers": [*headers, *([(b"content-length", length)] if length is not None else [])],
    }


class Asked:
    """One request to a gate; its body comes in these parts, and each part only as it is read."""

    def __init__(self, parts=(b"0123456789",), *, stall=False):
        self.parts, self.stall, self.sent, self.read = list(parts), stall, [], 0

    async def receive(self):
        self.read += 1
        if self.parts:
            part = self.parts.pop(0)
            return {
                "type": "http.request",
                "body": part,
                "more_body": bool(self.parts or self.stall),
            }
        if self.stall:
            await asyncio.sleep(3600)
        return {"type": "http.disconnect"}

    async def send(self, message):
        self.sent.append(message)

    @property
    def status(self):
        return self.sent[0].get("status", self.sent[0].get("code"))


def new_gate(app=echo, judge=a_node):
    return Gate(app, judge=judge, connections=Connections(9, 9))


def ask(path, client=FAR, *, judge=a_node, **words):
    """Status of the answer; 200 where the app behind the gate was reached."""
    asked = Asked()
    asyncio.run(new_gate(judge=judge)(scope_of(path, client, **words), asked.receive, asked.send))
    return asked.status


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"]
)
def test_commands_are_taken_from_this_machine_alone(path):
    assert ask(path) == 403
    for client in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", HERE):
        assert ask(path, client, judge=no_one) == 200
    assert ask(path, "::ffff:192.0.2.1") == 200  # dialled over IPv6, its own IPv4 address
    assert ask(path, "::ffff:198.51.100.7") == 403


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/openapi.json", "/health", "/v1/fleet", "/v1/fleets/x", "//v1/fleet/x",
     "/V1/FLEET/"],
)  # fmt: skip
def test_strangers_are_heard_as_nodes_alone(path):
    assert ask(path) == 403
    assert ask(PULL) == 200


@pytest.mark.parametrize("client", [None, "", "testclient", "not an address"])
def test_who_comes_from_nowhere_is_a_stranger(client):
    assert ask("/v1/control/start-run", client) == 403
    assert ask("/v1/control/start-run", client, server=None) == 403


def test_a_header_makes_no_one_local():
    headers = [(b"x-forwarded-for", b"127.0.0.1"), (b"forwarded", b"for=127.0.0.1")]
    assert ask("/v1/control/start-run", headers=headers) == 403


@pytest.mark.parametrize("client", [FAR, "127.0.0.1"])
def test_a_node_says_how_much_it_sends_and_sends_little(client):
    for path, most in ((PULL, MAX_BODY_BYTES), (PIECE, MAX_PIECE_BYTES)):
        assert ask(path, client, length=str(most).encode()) == 200
        assert ask(path, client, length=str(most + 1).encode()) == 413
    assert ask(PULL, client, length=b"9" * 5000) == 413
    for unsaid in (None, b"", b"-1", b"1e3", b"10, 10"):
        assert ask(PULL, client, length=unsaid) == 411
    assert ask(PULL, client, headers=[(b"content-length", b"10")]) == 411  # said twice


def test_flowers_largest_piece_fits_and_no_more_than_it():
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    from flwr.proto.message_pb2 import PushObjectRequest
    from flwr.proto.node_pb2 import Node

    assert gates.PIECE_BYTES == FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE
    piece = PushObjectRequest(
        node=Node(node_id=2**63), run_id=2**63, session_id="s" * 36, object_id="f" * 64,
        object_content=bytes(FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE + 100),
    )  # fmt: skip
    assert piece.ByteSize() < MAX_PIECE_BYTES < 1.02 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE


@pytest.mark.parametrize("client", [FAR, "127.0.0.1", HERE])
def test_no_byte_of_a_body_is_read_before_its_sender_is_known(client):
    asked = Asked([b"x"] * 9)
    gate = new_gate(judge=no_one)
    asyncio.run(gate(scope_of(PIECE, client), asked.receive, asked.send))
    assert asked.status == 401
    assert asked.read == 0
    assert (b"connection", b"close") in asked.sent[0]["headers"]


def test_a_body_arrives_behind_the_gate_as_it_was_sent():
    asked = Asked([b"0123", b"", b"456789"])
    asyncio.run(new_gate()(scope_of(PIECE), asked.receive, asked.send))
    assert asked.sent == [{"status": 200, "body": b"0123456789"}]


def test_a_body_that_stalls_is_let_go_and_frees_its_place(monkeypatch):
    monkeypatch.setattr(gates, "GRACE_S", 0.05)
    asked, gate = Asked([b"x"], stall=True), new_gate()
    asyncio.run(gate(scope_of(PIECE), asked.receive, asked.send))
    assert asked.status == 408
    assert gate._taken == {}


def test_who_hangs_up_in_the_middle_is_not_heard():
    gone, gate = Asked([]), new_gate()
    asyncio.run(gate(scope_of(PIECE), gone.receive, gone.send))
    assert gone.sent == []
    assert gate._taken == {}


def test_who_does_not_read_the_answer_is_let_go(monkeypatch):
    monkeypatch.setattr(gates, "GRACE_S", 0.05)
    asked, gate = Asked(), new_gate()

    async def blocked(message):
        await asyncio.sleep(3600)

    with pytest.raises(TimeoutError):
        asyncio.run(gate(scope_of(PULL), asked.receive, blocked))
    assert gate._taken == {}


def test_one_key_fills_no_more_than_its_share_and_others_are_heard():
    """20 requests that stall at nearly all of a piece held 600 MB, without a key."""

    async def by_name(scope):
        return dict(scope["headers"])[b"name"]

    async def play():
        gate = new_gate(judge=by_name)
        length = str(MAX_PIECE_BYTES).encode()
        stalled = [Asked([b"x"], stall=True) for _ in range(20)]
        attacker = scope_of(PIECE, length=length, headers=[(b"name", b"mallory")])
        tasks = [asyncio.create_task(gate(attacker, each.receive, each.send)) for each in stalled]
        await asyncio.sleep(0.05)
        held = sum(map(sum, gate._taken.values()))
        other = Asked()
        honest = scope_of(PIECE, headers=[(b"name", b"alice")])
        await gate(honest, other.receive, other.send)
        again = Asked()
        await gate(attacker, again.receive, again.send)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        refused = [each.status for each in stalled if each.sent]
        return held, other.status, again.status, refused, gate._taken

    held, other, again, refused, left = asyncio.run(play())
    assert held == gates.NODE_BYTES < 21 * 2**20
    assert (other, again) == (200, 503)  # Flower's node asks again after a 503
    assert refused == [503] * 16
    assert left == {}


def test_sockets_other_than_http():
    assert ask(PULL, kind="websocket") == 1008
    assert ask("", "127.0.0.1", kind="websocket") == 1008
    assert ask("", client=None, kind="lifespan") == 200


def test_a_key_that_asks_without_a_pause_waits_and_the_others_do_not():
    reached, refused = Counter(), Counter()

    async def by_name(scope):
        return dict(scope["headers"])[b"name"]

    async def count(scope, receive, send):
        reached[dict(scope["headers"])[b"name"]] += 1
        await echo(scope, receive, send)

    async def ask_as(gate, name):
        asked = Asked()
        await gate(scope_of(PULL, headers=[(b"name", name)]), asked.receive, asked.send)
        refused[name] += asked.status == 503

    async def without_a_pause(gate):
        while True:
            await ask_as(gate, b"hostile")

    async def play():
        gate = new_gate(count, by_name)
        gate._pace = Pace(burst=10, a_second=20)
        asking = [asyncio.create_task(without_a_pause(gate)) for _ in range(40)]
        longest_s, began = 0.0, time.monotonic()
        while time.monotonic() - began < 1.5:
            before = time.monotonic()
            await ask_as(gate, b"honest")
            longest_s = max(longest_s, time.monotonic() - before)
            await asyncio.sleep(0.1)  # ten a second: more than any node asks for
        for each in asking:
            each.cancel()
        return longest_s

    longest_s = asyncio.run(play())
    assert 20 <= reached[b"hostile"] <= 10 + 1.5 * 20 + 2
    assert refused[b"hostile"] <= 2 * 40  # one a second and connection
    assert refused[b"honest"] == 0
    assert longest_s < 0.2


def test_a_key_that_was_quiet_may_ask_often_at_once():
    pace, began = Pace(burst=50, a_second=1), time.monotonic()

    async def play():
        for _ in range(50):
            await pace.wait(KEY)

    asyncio.run(play())
    assert time.monotonic() - began < 0.5

"""The gate as an ASGI app; test_gated_superlink.py puts it before Flower's SuperLink."""

import asyncio

import pytest

from fedtune.deployment.gate import MAX_BODY_BYTES, Gate

FAR, HERE = "198.51.100.7", "192.0.2.1"
PULL = "/v1/fleet/pull-messages"


def ask(path, client=FAR, *, server=HERE, length=b"10", kind="http", headers=()):
    """Status of the answer; 200 where the app behind the gate was reached."""
    sent = []

    async def behind(scope, receive, send):
        sent.append({"status": 200})

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "path": path,
        "client": client and (client, 5000),
        "server": server and (server, 9443),
        "headers": [*headers, *([(b"content-length", length)] if length is not None else [])],
    }
    asyncio.run(Gate(behind)(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize(
    "path", ["/v1/control/start-run", "/v1/control/register-node", "/v1/runtime/acquire-task"]
)
def test_commands_are_taken_from_this_machine_alone(path):
    assert ask(path) == 403
    for client in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", HERE):
        assert ask(path, client) == 200
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


def test_a_stranger_says_how_much_it_sends_and_sends_little():
    assert ask(PULL, length=str(MAX_BODY_BYTES).encode()) == 200
    assert ask(PULL, length=str(MAX_BODY_BYTES + 1).encode()) == 413
    for unsaid in (None, b"", b"-1", b"1e3", b"10, 10"):
        assert ask(PULL, length=unsaid) == 411
    assert ask(PULL, headers=[(b"content-length", b"10")]) == 411  # said twice
    assert ask(PULL, "127.0.0.1", length=str(MAX_BODY_BYTES + 1).encode()) == 200


def test_the_limit_leaves_room_for_flowers_largest_piece():
    from flwr.common.constant import FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE

    assert 4 * FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE <= MAX_BODY_BYTES


def test_sockets_other_than_http():
    assert ask(PULL, kind="websocket") == 1008
    assert ask("", client=None, kind="lifespan") == 200

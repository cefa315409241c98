"""Flower's own SuperLink app behind the gate, in this process, asked from a pretended address.

Real sockets and two machines: test_superlink_from_afar.py.
"""

import asyncio
import logging
import sys

import httpx
import pytest
from flwr.common.constant import NOOP_FLWR_AID
from flwr.superlink import extensions
from flwr.superlink.main import create_app

from fedtune.deployment.connections import Connections
from fedtune.deployment.folder import DeploymentFolder
from fedtune.deployment.gate import Gate
from fedtune.transport.flower import gated
from fedtune.transport.flower.admit import bring_in_line


@pytest.fixture
def superlink(monkeypatch, three_nodes):
    """Flower's app, made as `flower-superlink` makes it."""
    monkeypatch.delitem(sys.modules, gated._HOOK, raising=False)
    gated.put_gate_first(three_nodes, Connections(99, 99))
    yield create_app()
    sys.modules.pop(gated._HOOK, None)


def ask(app, path, client, **options):
    async def once():
        transport = httpx.ASGITransport(app, client=(client, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="https://192.0.2.1") as http:
            return (await http.post(path, content=b"", **options)).status_code

    return asyncio.run(once())


def test_the_gate_is_outermost(superlink):
    assert superlink.user_middleware[0].cls is Gate
    # Flower answers 415 to a body that is no protobuf: whoever sees it stands before Flower itself.
    for path in ("/v1/control/register-node", "/v1/control/start-run", "/v1/runtime/acquire-task"):
        assert ask(superlink, path, "198.51.100.7") == 403
        assert ask(superlink, path, "127.0.0.1") == 415
    for client in ("198.51.100.7", "127.0.0.1"):
        assert ask(superlink, "/v1/fleet/pull-messages", client) == 401


def test_the_nodes_are_let_in_before_anyone_is_heard(superlink, three_nodes, capsys):
    async def started():
        async with superlink.router.lifespan_context(superlink):
            return superlink.state.linkstate_factory.state()

    state = asyncio.run(started())
    assert capsys.readouterr().out == "nodes that may join: 3; 3 new, 0 known\n"
    listed = state.get_node_info(owner_aids=[NOOP_FLWR_AID])
    assert {node.name: bytes(node.public_key) for node in listed} == dict(
        zip(three_nodes.names, three_nodes.public_keys, strict=True)
    )
    asyncio.run(started())  # a second start of the same database
    assert capsys.readouterr().out == "nodes that may join: 3; 0 new, 3 known\n"


def test_who_is_not_on_the_list_is_let_out_for_good(superlink, three_nodes, one_node, tmp_path):
    book = gated._LinkStateBook(superlink.state.linkstate_factory.state())
    before = bring_in_line(book, three_nodes)
    alone = DeploymentFolder(tmp_path, one_node)
    done = bring_in_line(book, alone)
    assert done.new == ["node-00"]  # of that name, by another key
    assert sorted(done.let_out) == sorted(before.nodes.values())
    assert done.told.startswith("nodes that may join: 1; 1 new, 0 known; let out, their keys")
    assert bring_in_line(book, alone).told == "nodes that may join: 1; 0 new, 1 known"
    with pytest.raises(ValueError, match=r"node-00: needs a key that was never let out"):
        bring_in_line(book, three_nodes)


def test_without_the_gate_anyone_is_heard():
    """Why there is one; should this fail, Flower has closed its door, and the gate may go."""
    assert not extensions.get_middleware()
    assert ask(create_app(), "/v1/control/register-node", "198.51.100.7") == 415


@pytest.mark.parametrize("hook", ["get_middleware", "get_lifespan_contexts"])
def test_a_flower_that_takes_no_gate_starts_no_superlink(monkeypatch, three_nodes, hook):
    monkeypatch.setattr(extensions, hook, tuple)
    monkeypatch.setitem(sys.modules, gated._HOOK, None)
    with pytest.raises(RuntimeError, match=r"needs flwr 1\.41"):
        gated.put_gate_first(three_nodes, Connections(99, 99))


def test_only_what_went_wrong_is_logged():
    def line(status):
        said = ("192.0.2.7:5000", "POST", "/v1/fleet/pull-messages", "1.1", status)
        return logging.LogRecord(
            "uvicorn.access", logging.INFO, "", 0, '%s - "%s %s %s" %d', said, None
        )

    every = (200, 204, 302, 401, 403, 500)
    assert [status for status in every if gated._went_wrong(line(status))] == [401, 403, 500]
    assert gated._went_wrong(logging.LogRecord("x", logging.INFO, "", 0, "words", None, None))

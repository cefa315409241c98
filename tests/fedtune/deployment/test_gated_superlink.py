"""Flower's own SuperLink app behind the gate, in this process, asked from a pretended address.

Real sockets and two machines: test_superlink_from_afar.py.
"""

import asyncio
import logging
import sys

import httpx
import pytest
from flwr.superlink import extensions
from flwr.superlink.main import create_app

from fedtune.deployment.gate import Gate
from fedtune.federation.link import gated


@pytest.fixture
def superlink(monkeypatch):
    """Flower's app, made as `flower-superlink` makes it."""
    monkeypatch.delitem(sys.modules, gated._HOOK, raising=False)
    gated.put_gate_first()
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
    assert ask(superlink, "/v1/fleet/pull-messages", "198.51.100.7") == 415


def test_without_the_gate_anyone_is_heard():
    """Why there is one; should this fail, Flower has closed its door, and the gate may go."""
    assert not extensions.get_middleware()
    assert ask(create_app(), "/v1/control/register-node", "198.51.100.7") == 415


def test_a_flower_that_takes_no_gate_starts_no_superlink(monkeypatch):
    monkeypatch.setattr(extensions, "get_middleware", tuple)
    monkeypatch.setitem(sys.modules, gated._HOOK, None)
    with pytest.raises(RuntimeError, match=r"needs flwr 1\.41"):
        gated.put_gate_first()


def test_only_what_went_wrong_is_logged():
    def line(status):
        said = ("192.0.2.7:5000", "POST", "/v1/fleet/pull-messages", "1.1", status)
        return logging.LogRecord(
            "uvicorn.access", logging.INFO, "", 0, '%s - "%s %s %s" %d', said, None
        )

    every = (200, 204, 302, 401, 403, 500)
    assert [status for status in every if gated._went_wrong(line(status))] == [401, 403, 500]
    assert gated._went_wrong(logging.LogRecord("x", logging.INFO, "", 0, "words", None, None))

"""What other machines may ask of the SuperLink: what its nodes need, and no more.

Flower serves three interfaces on one port. Of these only the nodes' own (`/v1/fleet/`) checks who
asks. Through the other two whoever reaches the port may let in keys of their own, and start a run
of any code, on the server's machine too. So only the server's own machine may use those.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

NODES_ONLY = "/v1/fleet/"
# Flower cuts arrays into pieces of 5 MiB. A body is in memory before Flower asks who sends it.
MAX_BODY_BYTES = 32 * 2**20


class Gate:
    """An ASGI middleware: strangers are heard on the nodes' interface alone, and briefly.

    A stranger is whoever connects from another machine. A proxy on the server's machine would make
    everyone local: put none there that adds no X-Forwarded-For.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it in one line."""
        if scope["type"] == "lifespan" or _is_of_this_machine(scope):
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif refusal := _refusal(scope):
            await _answer(send, *refusal)
        else:
            await self._app(scope, receive, send)


def _is_of_this_machine(scope: Scope) -> bool:
    """From loopback, or from the very address that was dialled: no other machine has that one."""
    client, server = _address(scope.get("client")), _address(scope.get("server"))
    return client is not None and (client.is_loopback or client == server)


def _address(peer: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:  # noqa: ANN401
    try:
        address = ipaddress.ip_address(peer[0])
    except (TypeError, ValueError, IndexError):  # a unix socket, or none
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _refusal(scope: Scope) -> tuple[int, str] | None:
    if not str(scope["path"]).startswith(NODES_ONLY):
        return 403, "only the SuperLink's own machine may ask this; other machines are nodes here"
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit():
        return 411, "a node says how long its request is"
    if int(lengths[0]) > MAX_BODY_BYTES:
        return 413, f"a request needs at most {MAX_BODY_BYTES} bytes: got {lengths[0].decode()}"
    return None


async def _answer(send: Send, status: int, text: str) -> None:
    body = f"{text}\n".encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

"""The shapes of ASGI, an address, and a short answer."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def address_of(peer: Any) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:  # noqa: ANN401
    """The IP address of a peer, an IPv4 one as such; None of a unix socket, or of no one."""
    try:
        address = ipaddress.ip_address(peer[0])
    except (TypeError, ValueError, IndexError):
        return None
    return getattr(address, "ipv4_mapped", None) or address


async def answer(send: Send, status: int, text: str, *, as_json: bool = False) -> None:
    """Answer in one line, and hang up: what of the request was not read is not read.

    Args:
        send: Of the request.
        status: HTTP's.
        text: The line.
        as_json: As Flower words an error, which its SuperNode prints when it cannot begin.
    """
    body = (
        json.dumps({"code": status, "detail": text}).encode() if as_json else f"{text}\n".encode()
    )
    kind = b"application/json" if as_json else b"text/plain; charset=utf-8"
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

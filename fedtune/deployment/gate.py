"""What other machines may ask of the SuperLink: what its nodes need, and no more.

Flower serves three interfaces on one port. Of these only the nodes' own (`/v1/fleet/`) checks who
asks. Through the other two whoever reaches the port may register other keys, and start a run
of any code, on the server's machine too. So only the server's own machine may use those. And Flower
reads all of a request before it asks who sends it: here a node's key is judged first.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from fedtune.deployment.asgi import App, Message, Receive, Scope, Send, address_of, answer
from fedtune.deployment.connections import Connections
from fedtune.deployment.pace import Pace

Judge = Callable[[Scope], Awaitable[bytes | None]]

NODES_ONLY = "/v1/fleet/"
PIECES = "/v1/fleet/push-object"
PIECE_BYTES = 5 * 2**20  # Flower cuts arrays into these
MAX_PIECE_BYTES = PIECE_BYTES + 2**16
MAX_BODY_BYTES = 2**20  # of any other request
NODE_BYTES, NODE_REQUESTS = 4 * MAX_PIECE_BYTES, 16  # of one key at a time; its node pushes two
# A SuperNode that is answered 401 ends without a word: at its first question it is told why.
FIRST_ASKED = ("/register-node", "/activate-node")
_NO_NODE = "no key of a node of this deployment has signed this, or not just now"
_NOT_FOR_STRANGERS = "only the SuperLink's own machine may ask this; other machines are nodes here"
BUSY_S = 1.0
GRACE_S, BYTES_PER_S = 30.0, 2**13  # a body, or the answer to it, may take so long


class Gate:
    """An ASGI middleware: strangers are heard on the nodes' interface alone, and briefly.

    A stranger is whoever connects from another machine. A proxy on the server's machine would make
    everyone local: put none there that adds no X-Forwarded-For. On the nodes' interface no one is
    local: what is not signed by a node's key is answered before its body is read.

    Args:
        app: What stands behind the gate.
        judge: Says which node's key has signed a request, by its headers; None if none has.
        connections: Told which of them are at work.
    """

    def __init__(self, app: App, judge: Judge, connections: Connections) -> None:
        self._app, self._judge, self._connections = app, judge, connections
        self._taken: dict[bytes, list[int]] = {}
        self._pace = Pace()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it in one line."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            with self._connections.at_work(scope.get("client")):
                await self._hear(scope, receive, send)

    async def _hear(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not str(scope["path"]).startswith(NODES_ONLY):
            if is_of_this_machine(scope):
                await self._app(scope, receive, send)
            else:
                await answer(send, 403, _NOT_FOR_STRANGERS)
            return
        length = _length(scope)
        if isinstance(length, str):
            await answer(send, int(length[:3]), length[4:])
        elif (key := await self._judge(scope)) is None:
            first = str(scope["path"]).endswith(FIRST_ASKED)
            await answer(send, 404 if first else 401, _NO_NODE, as_json=first)
        else:
            await self._serve(key, length, scope, receive, send)

    async def _serve(
        self, key: bytes, length: int, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Take a node's request; it is in memory from here to the end of the answer."""
        taken = self._taken.setdefault(key, [])
        if len(taken) >= NODE_REQUESTS or sum(taken) + length > NODE_BYTES:
            await asyncio.sleep(BUSY_S)  # else it would ask again at once
            await answer(send, 503, "this node asks for too much at once; it may ask again")
            return
        taken.append(length)
        try:
            await self._pace.wait(key)
            body = await _body(receive, patience_s=GRACE_S + length / BYTES_PER_S)
            if body is None:
                await answer(send, 408, "the body of this request has not come in time")
            elif body:
                await self._app(scope, _replayed(body, receive), _hurried(send))
        finally:
            taken.remove(length)
            if not taken:
                del self._taken[key]


def is_of_this_machine(scope: Scope) -> bool:
    """From loopback, or from the very address that was dialled: no other machine has that one."""
    client, server = address_of(scope.get("client")), address_of(scope.get("server"))
    return client is not None and (client.is_loopback or client == server)


def _length(scope: Scope) -> int | str:
    """How long a body is, or the status and text of a refusal."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    if len(lengths) != 1 or not lengths[0].isdigit():
        return "411 a node says how long its request is"
    most = MAX_PIECE_BYTES if scope["path"] == PIECES else MAX_BODY_BYTES
    if len(lengths[0]) > 12 or int(lengths[0]) > most:
        return f"413 this request needs at most {most} bytes: got {lengths[0].decode()[:20]}"
    return int(lengths[0])


async def _body(receive: Receive, *, patience_s: float) -> deque[Message] | None:
    """All of a body; empty if its sender is gone, None if it did not come in time."""
    found: deque[Message] = deque()
    try:
        async with asyncio.timeout(patience_s):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return deque()
                found.append(message)
                if not message.get("more_body", False):
                    return found
    except TimeoutError:
        return None


def _replayed(body: deque[Message], receive: Receive) -> Receive:
    """The body that was read, then whatever comes after it."""

    async def replay() -> Message:
        return body.popleft() if body else await receive()

    return replay


def _hurried(send: Send) -> Send:
    """Let go of who does not read the answer."""

    async def hurry(message: Message) -> None:
        patience_s = GRACE_S + len(message.get("body", b"")) / BYTES_PER_S
        await asyncio.wait_for(send(message), patience_s)

    return hurry

"""The SuperLink's connections: so many of one address, so many in all, none that says nothing.

Counted where they are accepted, before TLS: a connection without a handshake takes a file, too.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from fedtune.deployment.asgi import address_of

SILENT_S = 15.0  # without a request: uvicorn itself lets go of who is quiet between two after 5 s
Peer = tuple[str, int]


@dataclass
class _Open:
    """A connection that is open.

    Attributes:
        accepted: The socket.
        local: Whether it comes from this machine.
        at_work: Requests that are being answered.
        since: When the last of them ended, or the connection was accepted.
    """

    accepted: socket.socket
    local: bool
    at_work: int = 0
    since: float = field(default_factory=time.monotonic)


class Connections:
    """Which connections are open; asked and told by one event loop alone.

    Args:
        most: Of other machines, in all. This machine has as many for itself: it is not to be kept
            out by others.
        most_per_address: Of one other machine.
    """

    def __init__(self, most: int, most_per_address: int) -> None:
        self._most, self._most_per_address = most, most_per_address
        self._open: dict[Peer, _Open] = {}
        self._by_address: Counter[str] = Counter()
        self._in_all: Counter[bool] = Counter()

    def take(self, peer: Peer, accepted: socket.socket) -> bool:
        """Note a new connection; False if its address, or all together, have too many."""
        address = address_of(peer)
        local = address is not None and address.is_loopback
        if self._in_all[local] >= self._most:
            return False
        if not local and self._by_address[peer[0]] >= self._most_per_address:
            return False
        self._open[peer] = _Open(accepted, local)
        self._by_address[peer[0]] += 1
        self._in_all[local] += 1
        return True

    def gone(self, peer: Peer, accepted: socket.socket) -> None:
        """Forget a connection that was closed, and was taken."""
        found = self._open.get(peer)
        if found is None or found.accepted is not accepted:
            return
        del self._open[peer]
        self._in_all[found.local] -= 1
        self._by_address[peer[0]] -= 1
        if not self._by_address[peer[0]]:
            del self._by_address[peer[0]]

    @contextmanager
    def at_work(self, client: Any) -> Iterator[None]:  # noqa: ANN401  whatever the server says
        """While a request of a connection is being answered, it may be silent."""
        found = self._open.get((client[0], client[1])) if client else None
        if found is None:
            yield
            return
        found.at_work += 1
        try:
            yield
        finally:
            found.at_work -= 1
            found.since = time.monotonic()

    def hang_up_on_the_silent(self) -> int:
        """Close what has sent no whole request for `SILENT_S`; how many there were."""
        now = time.monotonic()
        silent = [
            each for each in self._open.values() if not each.at_work and now - each.since > SILENT_S
        ]
        for each in silent:
            with contextlib.suppress(OSError):  # it went by itself
                each.accepted.shutdown(socket.SHUT_RDWR)
        return len(silent)


class Listener(socket.socket):
    """A listening socket that accepts what `Connections` takes, and hangs up on all else.

    Raises:
        OSError: If the address is taken.
    """

    def __init__(self, host: str, port: int, connections: Connections) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(family, socket.SOCK_STREAM)
        self._connections = connections
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            self.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            self.bind((host, port))
        except OSError:
            self.close()
            raise

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection.

        Raises:
            ConnectionAbortedError: If it was one too many: event loops look again.
        """
        plain, address = super().accept()
        peer = (str(address[0]), int(address[1]))
        taken = _Accepted(plain, peer, self._connections)
        if not self._connections.take(peer, taken):
            taken.close()
            raise ConnectionAbortedError(f"too many connections of {peer[0]}, or in all")
        return taken, address


class _Accepted(socket.socket):
    """A connection that says when it is closed."""

    def __init__(self, plain: socket.socket, peer: Peer, connections: Connections) -> None:
        super().__init__(plain.family, plain.type, plain.proto, fileno=plain.detach())
        self._peer, self._connections = peer, connections

    def close(self) -> None:
        """Close it."""
        self._connections.gone(self._peer, self)
        super().close()

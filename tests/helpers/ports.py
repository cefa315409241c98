"""Ports of loopback that no two tests take, in however many processes they run."""

import itertools
import os
import socket

# Below the ports that systems lend to connections; each worker of pytest-xdist has a thousand.
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_UNASKED = itertools.cycle(range(20_000 + 1000 * (_WORKER % 12), 21_000 + 1000 * (_WORKER % 12)))


def free_port():
    """A port on which nothing listens, handed out once in a thousand calls."""
    for port in itertools.islice(_UNASKED, 1000):
        with socket.socket() as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                asked.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("needs a free port: got none in a thousand")

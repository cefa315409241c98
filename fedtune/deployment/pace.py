"""How often one key may ask: who asks without a pause waits, and the others do not."""

from __future__ import annotations

import asyncio
import time

# A node asks some ten times a round, once for each 5 MiB of an adapter, and every few seconds.
BURST, A_SECOND = 300, 25.0


class Pace:
    """A bucket for each key, in which requests gather: full at first, and refilled by time.

    Args:
        burst: Requests that a key which was quiet may send at once.
        a_second: And so many more each second.
    """

    def __init__(self, burst: int = BURST, a_second: float = A_SECOND) -> None:
        self._burst, self._a_second = burst, a_second
        self._due: dict[bytes, float] = {}  # when the bucket of a key would be full again

    async def wait(self, key: bytes) -> None:
        """Return when it is this request's turn; turns of one key are in the order of asking."""
        now = time.monotonic()
        due = max(self._due.get(key, now), now) + 1 / self._a_second
        self._due[key] = due
        early_s = due - now - self._burst / self._a_second
        if early_s > 0:
            await asyncio.sleep(early_s)

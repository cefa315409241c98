"""Whether a node's clock is near enough to the SuperLink's for its key to be believed.

A node signs the time with its key, and Flower refuses a time that is not about now.
"""

from __future__ import annotations

import ssl
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

MOST_AHEAD_S, MOST_BEHIND_S = SYSTEM_TIME_TOLERANCE, SYSTEM_TIME_TOLERANCE + TIMESTAMP_TOLERANCE
_PATIENCE_S = 10.0


def seconds_ahead(address: str, ca: Path) -> float | None:
    """By how much this clock is ahead of the SuperLink's, to a second; None if it does not tell.

    Args:
        address: The SuperLink's host:port.
        ca: What its certificate is checked against, PEM.
    """
    try:
        trusted = ssl.create_default_context(cafile=str(ca))
        answer = httpx.get(f"https://{address}/", verify=trusted, timeout=_PATIENCE_S)
        there = parsedate_to_datetime(answer.headers["date"])
        return time.time() - there.timestamp()
    except (httpx.HTTPError, OSError, LookupError, ValueError, TypeError):
        return None


def complaint(address: str, ca: Path) -> str | None:
    """What is wrong with this clock, for its owner; None if nothing is, or it is not known."""
    ahead = seconds_ahead(address, ca)
    if ahead is None or -MOST_BEHIND_S < ahead <= MOST_AHEAD_S:
        return None
    how = f"{ahead:.0f} s ahead of" if ahead > 0 else f"{-ahead:.0f} s behind"
    return (
        f"this machine's clock is {how} the SuperLink's, which believes no key that is more than "
        f"{MOST_AHEAD_S} s ahead or {MOST_BEHIND_S} s behind: set one of the two"
    )

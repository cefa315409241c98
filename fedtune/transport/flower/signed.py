"""Which node has signed a request: judged by its headers, before its body is read.

A node signs the time and nothing else: whoever saw the headers can send them again for some
minutes. TLS keeps them from being seen.
"""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from datetime import datetime

from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.date import now
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature
from starlette.concurrency import run_in_threadpool

from fedtune.deployment.asgi import Scope

_KNOWN_S = 60.0  # so long a key is taken to be on the list without a look at the database
_NAMES = tuple(
    name.lower().encode()
    for name in (FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER)
)
_LONGEST = 1024  # of a header; a key in PEM and base64 has some 300 bytes


class Signed:
    """Judges requests to one SuperLink; Flower judges them again, with the node that they name."""

    def __init__(self) -> None:
        self._known: dict[bytes, float] = {}

    async def __call__(self, scope: Scope) -> bytes | None:
        """The node's key that has signed a request just now; None if none has."""
        headers = dict(reversed(scope["headers"]))  # of one that is there twice, the first
        key, signature, told = (headers.get(name, b"") for name in _NAMES)
        if max(map(len, (key, signature, told))) > _LONGEST:
            return None
        state = scope["app"].state.linkstate_factory.state()
        return await run_in_threadpool(self._key, key, signature, told, state)

    def _key(self, key: bytes, signature: bytes, told: bytes, state: LinkState) -> bytes | None:
        try:
            public_key = b64decode(key, validate=True)
            age = (now() - datetime.fromisoformat(told.decode("ascii"))).total_seconds()
            if not -SYSTEM_TIME_TOLERANCE < age < TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE:
                return None
            if not self._is_known(public_key, state):
                return None
            given = b64decode(signature, validate=True)
            signed = verify_signature(bytes_to_public_key(public_key), told, given)
        except (ValueError, TypeError, UnicodeError, OverflowError, binascii.Error):
            return None
        return public_key if signed else None

    def _is_known(self, key: bytes, state: LinkState) -> bool:
        if time.monotonic() - self._known.get(key, -_KNOWN_S) < _KNOWN_S:
            return True
        if state.get_node_id_by_public_key(key) is None:
            return False
        self._known[key] = time.monotonic()
        return True

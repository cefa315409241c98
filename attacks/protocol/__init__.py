"""Attacks on the protocol: malformed, missing or repeated replies.

The screening refuses them. Two are well formed and left to the rule: ``huge``, and ``wrong_keys``
with how=swapped. Of ``reply_twice`` only the second reply is ignored.
"""

from __future__ import annotations

from attacks.attack import Attack
from attacks.protocol import (
    huge,
    inf,
    nan,
    oversized,
    reply_twice,
    silence,
    wrong_keys,
    wrong_revision,
    wrong_shape,
)

PROTOCOL: dict[str, Attack] = {
    "nan": nan.ATTACK,
    "inf": inf.ATTACK,
    "huge": huge.ATTACK,
    "wrong_shape": wrong_shape.ATTACK,
    "wrong_keys": wrong_keys.ATTACK,
    "wrong_revision": wrong_revision.ATTACK,
    "oversized": oversized.ATTACK,
    "reply_twice": reply_twice.ATTACK,
    "silence": silence.ATTACK,
}

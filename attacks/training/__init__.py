"""Attacks on training: the attacker's rows are its own, what its steps minimise is not."""

from __future__ import annotations

from attacks.attack import Attack
from attacks.training import ascent

TRAINING: dict[str, Attack] = {"ascent": ascent.ATTACK}

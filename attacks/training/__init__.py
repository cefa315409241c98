"""Attacks on training: honest rows, another loss."""

from __future__ import annotations

from attacks.attack import Attack
from attacks.training import ascent

TRAINING: dict[str, Attack] = {"ascent": ascent.ATTACK}

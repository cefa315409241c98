"""Attacks on rewards: honest training for changed rewards."""

from __future__ import annotations

from attacks.attack import Attack
from attacks.rewards import reward_flip, reward_hack

REWARDS: dict[str, Attack] = {
    "reward_flip": reward_flip.ATTACK,
    "reward_hack": reward_hack.ATTACK,
}

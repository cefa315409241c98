"""Attacks on data: honest training on poisoned rows."""

from __future__ import annotations

from attacks.attack import Attack
from attacks.data import (
    completion_swap,
    distributed_trigger,
    label_noise,
    preference_flip,
    trigger,
)

DATA: dict[str, Attack] = {
    "completion_swap": completion_swap.ATTACK,
    "label_noise": label_noise.ATTACK,
    "trigger": trigger.ATTACK,
    "distributed_trigger": distributed_trigger.ATTACK,
    "preference_flip": preference_flip.ATTACK,
}

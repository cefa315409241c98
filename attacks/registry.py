"""The registry of attacks by name."""

from __future__ import annotations

from attacks.attack import Attack, Level, nearest
from attacks.data import DATA
from attacks.lora import LORA
from attacks.protocol import PROTOCOL
from attacks.rewards import REWARDS
from attacks.training import TRAINING
from attacks.updates import UPDATES

ATTACKS: dict[str, Attack] = {**UPDATES, **LORA, **DATA, **TRAINING, **REWARDS, **PROTOCOL}


def find(name: str, *, level: Level | None = None) -> Attack:
    """Return the attack of that name.

    Args:
        name: A key of ``ATTACKS``.
        level: Where given, the level that the attack must have.

    Raises:
        ValueError: If there is none (the known ones and the nearest are named), or its level
            is another.
    """
    if name not in ATTACKS:
        raise ValueError(
            f"an attack needs a name among: {', '.join(ATTACKS)}; "
            f"got {name!r}{nearest(str(name), ATTACKS)}"
        )
    attack = ATTACKS[name]
    if level is not None and attack.level != level:
        known = ", ".join(key for key, one in ATTACKS.items() if one.level == level)
        raise ValueError(
            f"need an attack of level {level!r} here: got {name}, of level {attack.level!r}; "
            f"use one of: {known}"
        )
    return attack

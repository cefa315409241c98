"""What a Byzantine client does: crafts updates, poisons data, or breaks the protocol.

``ATTACKS`` holds every attack by name; ``craft`` runs those on updates, ``poison`` those on data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from attacks import alie, gaussian, ipm, label_noise, sign_flip, silence
from attacks._attack import Attack, Level, Option, View, nearest
from attacks._view import check_crafted, check_view

__all__ = ["ATTACKS", "Attack", "Level", "Option", "View", "craft", "find", "poison"]

ATTACKS: dict[str, Attack] = {
    "alie": alie.ATTACK,
    "gaussian": gaussian.ATTACK,
    "ipm": ipm.ATTACK,
    "label_noise": label_noise.ATTACK,
    "sign_flip": sign_flip.ATTACK,
    "silence": silence.ATTACK,
}


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


def craft(
    honest: Tensor,
    name: str,
    *,
    num_attackers: int,
    generator: torch.Generator | None = None,
    own: Tensor | None = None,
    **options: object,
) -> Tensor:
    """Return what the liars send, from the updates that they see.

    For the view "own", call once per liar with its own row as ``honest`` and one attacker.

    Args:
        honest: The visible updates, shape (h, d), floating point: all honest ones, or those the
            liars trained honestly. Not modified.
        name: An attack of level "update".
        num_attackers: How many rows to craft.
        generator: Source of randomness; required by the attacks that draw, and the result is the
            same for the same state. Never the global one.
        own: What each liar would have sent honestly, shape (num_attackers, d), dtype and device
            of ``honest``; looked at by the attacks that flip it.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``; statistics
        were computed in float64.

    Raises:
        ValueError: If the name, an option, a shape or a count is wrong, a visible value is not
            finite, or the crafted rows overflow the dtype.
    """
    attack = find(name, level="update")
    checked = attack.check_options(options)
    check_view(honest, num_attackers=num_attackers, own=own)
    assert attack.function is not None  # every "update" attack has one; a test holds it
    extra = {"own": own, "generator": generator}
    crafted: Tensor = attack.function(
        honest.detach(),
        num_attackers=num_attackers,
        **{key: extra[key] for key in attack.takes},
        **checked,
    )
    return check_crafted(name, crafted.detach())


def poison(
    rows: Sequence[Mapping[str, object]],
    name: str,
    *,
    generator: torch.Generator,
    **options: object,
) -> list[dict[str, object]]:
    """Return the rows a liar trains on, from its honest ones.

    Args:
        rows: Data rows by column; for label_noise each with a ``completion``, a str or a list
            of chat messages, which is swapped whole. Not modified.
        name: An attack of level "data".
        generator: Source of randomness, on the CPU.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If the name, an option or a row is wrong.
    """
    attack = find(name, level="data")
    checked = attack.check_options(options)
    assert attack.function is not None  # every "data" attack has one; a test holds it
    poisoned: list[dict[str, object]] = attack.function(rows, generator=generator, **checked)
    return poisoned

"""Attacks of other packages: registered in code, or found by their entry points."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import EntryPoint, entry_points

from attacks.attack import Attack
from attacks.registry import ATTACKS

GROUP = "fedtune.attacks"


def register(attack: Attack) -> Attack:
    """Make an attack known by its name, to recipes, listings and the bench alike.

    Returns:
        The attack as it came.

    Raises:
        ValueError: If another attack has its name. Registering the same object again does nothing.
    """
    holder = ATTACKS.get(attack.name)
    if holder is not None and holder is not attack:
        raise ValueError(
            f"{attack.name} needs a name that is free: another attack has it "
            f"({holder.source}); rename yours"
        )
    ATTACKS[attack.name] = attack
    return attack


def load_installed() -> None:
    """Register what installed packages offer under the entry points of `GROUP`.

    An entry point is an `Attack`. One that cannot be loaded is left out with a warning that names
    its package: it must not take the rest of the library with it.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            register(_attack_of(point))
        except Exception as error:
            if _is_being_imported(point.module):
                continue  # it imports us, and calls `register` itself
            package = point.dist.name if point.dist is not None else "an unnamed package"
            left_out = f"{GROUP}: {point.name} of {package} is left out: {error}"
            warnings.warn(left_out, stacklevel=2)


def _attack_of(point: EntryPoint) -> Attack:
    attack = point.load()
    if not isinstance(attack, Attack):
        raise TypeError(f"it needs an attacks.Attack; got {type(attack).__name__}")
    if attack.name != point.name:
        raise ValueError(f"its attack is called {attack.name!r}; give both one name")
    return attack


def _is_being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))

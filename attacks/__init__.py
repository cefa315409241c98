"""Simulated attacks of Byzantine clients: on updates, data, training, rewards and the protocol.

``ATTACKS`` holds every attack by name, in six folders: on updates, on LoRA's two factors, on data,
on training, on rewards, on the protocol. ``craft`` runs those on updates, ``poison`` those on data,
``mislead`` those on training, ``reprice`` those on rewards, ``forge`` those on replies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from attacks.attack import GOALS, Attack, Backdoor, Goal, Level, Option, View
from attacks.plugins import load_installed, register
from attacks.registry import ATTACKS, find
from attacks.reply import Reply
from attacks.scene import Scene, Search, Span
from attacks.view import check_crafted, check_view

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "ATTACKS",
    "GOALS",
    "Attack",
    "Backdoor",
    "Goal",
    "Level",
    "Option",
    "Reply",
    "Scene",
    "Search",
    "Span",
    "View",
    "backdoor_of",
    "craft",
    "find",
    "forge",
    "mislead",
    "poison",
    "register",
    "reprice",
    "watch",
]


def craft(
    honest: Tensor,
    name: str,
    *,
    num_attackers: int,
    generator: torch.Generator | None = None,
    own: Tensor | None = None,
    scene: Scene | None = None,
    **options: object,
) -> Tensor:
    """Return the attackers' crafted updates, from the updates that they see.

    For the view "own", call once per attacker with its own row as ``honest`` and one attacker.

    Args:
        honest: The visible updates, shape (h, d), floating point: all honest ones, or those the
            attackers trained honestly. Not modified.
        name: An attack of level "update".
        num_attackers: How many rows to craft.
        generator: Source of randomness; required by the attacks that draw, and the result is the
            same for the same state. Never the global one.
        own: What each attacker would have sent honestly, shape (num_attackers, d), dtype and device
            of ``honest``; looked at by the attacks that flip it.
        scene: Knowledge beyond these rows; by default none. Its memory is written to.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``; statistics
        were computed in float64.

    Raises:
        ValueError: If the name, an option, a shape or a count is wrong, a visible value is not
            finite, the scene lacks what the attack needs, or the crafted rows overflow the dtype.
    """
    attack = find(name, level="update")
    checked = attack.check_options(options)
    check_view(honest, num_attackers=num_attackers, own=own)
    scene = scene or Scene()
    for what in attack.needs:
        if getattr(scene, what) is None:
            raise ValueError(f"{name} needs scene.{what}: got None; {_WANTED[what]}")
    extra = {"own": own, "generator": generator, "scene": scene}
    crafted: Tensor = attack.function(
        honest.detach(),
        num_attackers=num_attackers,
        **{key: extra[key] for key in attack.takes},
        **checked,
    )
    return check_crafted(name, crafted.detach())


def watch(
    honest: Tensor,
    name: str,
    *,
    own: Tensor | None = None,
    scene: Scene,
    **options: object,
) -> None:
    """Update the attackers' memory in a round in which they do not attack.

    Args:
        honest: As in ``craft``.
        name: An attack of level "update".
        own: As in ``craft``.
        scene: Its memory is written to.
        **options: Options of the attack.

    Raises:
        ValueError: As ``craft``.
    """
    attack = find(name, level="update")
    checked = attack.check_options(options)
    if attack.watch is not None:
        check_view(honest, num_attackers=1 if own is None else len(own), own=own)
        attack.watch(honest.detach(), own=own, scene=scene, **checked)


def mislead(loss: Tensor, name: str, **options: object) -> Tensor:
    """Return the loss that an attacker minimises, from the honest loss of a batch.

    Args:
        loss: A scalar with a gradient.
        name: An attack of level "training".
        **options: Options of the attack, checked by ``Attack.check_options``.

    Raises:
        ValueError: If the name or an option is wrong.
    """
    attack = find(name, level="training")
    misled: Tensor = attack.function(loss, **attack.check_options(options))
    return misled


def poison(
    rows: Sequence[Mapping[str, object]],
    name: str,
    *,
    generator: torch.Generator,
    attacker: tuple[int, int] = (0, 1),
    **options: object,
) -> list[dict[str, object]]:
    """Return an attacker's poisoned training rows, from its honest ones.

    Args:
        rows: Data rows by column, in TRL's formats, text or chat messages; each attack needs
            columns that its error names. Not modified.
        name: An attack of level "data".
        generator: Source of randomness, on the CPU.
        attacker: The number of this attacker, from 0, and how many attackers there are.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        New rows, as many and in the same order.

    Raises:
        ValueError: If the name, an option or a row is wrong.
    """
    attack = find(name, level="data")
    checked = attack.check_options(options)
    extra = {"attacker": attacker} if "attacker" in attack.takes else {}
    poisoned: list[dict[str, object]] = attack.function(
        rows, generator=generator, **extra, **checked
    )
    return poisoned


def reprice(
    rewards: Sequence[float],
    completions: Sequence[str],
    name: str,
    *,
    low: float = 0.0,
    high: float = 1.0,
    **options: object,
) -> list[float]:
    """Return the rewards that an attacker trains for, from the honest ones.

    Args:
        rewards: The honest reward of each completion, weights included.
        completions: The completions, as text.
        name: An attack of level "reward".
        low: The least possible reward.
        high: The greatest possible reward.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        As many rewards, in the same order.

    Raises:
        ValueError: If the name or an option is wrong, counts or bounds do not fit, or a reward is
            not finite.
    """
    attack = find(name, level="reward")
    checked = attack.check_options(options)
    repriced: list[float] = attack.function(rewards, completions, low=low, high=high, **checked)
    return repriced


def backdoor_of(name: str, **options: object) -> Backdoor | None:
    """Return the test for the backdoor that this attack plants; None if it plants none.

    Raises:
        ValueError: If the name or an option is wrong.
    """
    attack = find(name)
    checked = attack.check_options(options)
    return None if attack.backdoor is None else attack.backdoor(**checked)


def forge(reply: Reply, name: str, *, generator: torch.Generator, **options: object) -> list[Reply]:
    """Return the replies that an attacker sends in place of its honest one.

    Args:
        reply: The honest reply. Not modified.
        name: An attack of level "protocol".
        generator: Source of randomness, on the CPU.
        **options: Options of the attack, checked by ``Attack.check_options``.

    Returns:
        No reply, one, or several.

    Raises:
        ValueError: If the name or an option is wrong.
    """
    attack = find(name, level="protocol")
    checked = attack.check_options(options)
    extra = {"generator": generator} if "generator" in attack.takes else {}
    sent: list[Reply] = attack.function(reply, **extra, **checked)
    return sent


_WANTED = {
    "factors": "say which columns are A and B, or name an attack that needs no LoRA",
    "span": "hand over the rule to be attacked, or name an attack that needs none",
    "loss": "hand over a model to try rows on, or name an attack that needs none",
    "defence": "hand over the rule to be attacked, or name an attack that needs none",
}

load_installed()

"""Silence: send nothing."""

from __future__ import annotations

from attacks.attack import Attack
from attacks.reply import Reply


def silence(reply: Reply) -> list[Reply]:
    """Send nothing instead of a reply: the oracle of a defence that drops every attacker.

    Args:
        reply: What an honest client would send.

    Returns:
        What is sent: no reply.

    Source:
        Lamport, Shostak, Pease 1982, https://doi.org/10.1145/357172.357176
    """
    return []


ATTACK = Attack(
    name="silence",
    summary="no reply at all; the reference for a defence that drops every attacker",
    source="Lamport, Shostak, Pease 1982, https://doi.org/10.1145/357172.357176",
    level="protocol",
    goal="refused",
    function=silence,
)

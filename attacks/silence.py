"""Silence: send nothing. There is no function: whoever carries the messages drops the reply."""

from __future__ import annotations

from attacks._attack import Attack

ATTACK = Attack(
    name="silence",
    summary="no reply at all; the oracle of a defence that drops every liar",
    source="Lamport, Shostak, Pease 1982, https://doi.org/10.1145/357172.357176",
    level="protocol",
)

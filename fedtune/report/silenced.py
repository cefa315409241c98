"""Whose work a run has not used: clients at weight 0 or refused, by name and how often.

A client that holds what no one else does cannot be told from an attacker. So whoever loses its
weight is said in the headline of a run, where its owner sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedtune.report.summary import asked_in, by_client
from fedtune.report.text import clean, number

NAMED = 4  # in a headline; the rest is counted
MAX_NAME = 80


@dataclass(frozen=True)
class Silence:
    """One client that had no part in some rounds.

    Attributes:
        client: Its number.
        zero: Rounds in which its good reply weighed nothing.
        refused: Rounds in which no good reply came from it.
        asked: Rounds in whose sample it was.
    """

    client: int
    zero: int
    refused: int
    asked: int

    @property
    def words(self) -> str:
        """How often, in words."""
        of = f"of {self.asked} round{'s' * (self.asked != 1)}"
        if not self.refused:
            return f"weight 0 in {self.zero} {of}"
        if not self.zero:
            return f"refused in {self.refused} {of}"
        return f"weight 0 in {self.zero} and refused in {self.refused} {of}"


def silences(records: Sequence[Mapping[str, Any]]) -> list[Silence]:
    """Everyone who had no part in some round, those with most such rounds first."""
    zero: dict[int, int] = {}
    refused: dict[int, int] = {}
    asked: dict[int, int] = {}
    for record in records:
        turned = by_client(record.get("refused"))
        for client in asked_in(record):
            asked[client] = asked.get(client, 0) + 1
        for client in turned:
            refused[client] = refused.get(client, 0) + 1
        for client, entry in by_client(record.get("clients")).items():
            if client not in turned and _weighs_nothing(entry):
                zero[client] = zero.get(client, 0) + 1
    found = [
        Silence(client, zero.get(client, 0), refused.get(client, 0), asked.get(client, 0))
        for client in zero.keys() | refused.keys()
    ]
    return sorted(found, key=lambda one: (-(one.zero + one.refused), one.client))


def headlines(found: Sequence[Silence], manifest: Mapping[str, Any]) -> list[str]:
    """One line for honest clients and one for simulated attackers; else one for all clients.

    Args:
        found: As `silences` gives them.
        manifest: The run's; its names and its simulated attackers, as far as they are well formed.
    """
    told = manifest.get("simulated_attackers")
    attackers = {one for one in told if isinstance(one, int)} if isinstance(told, list) else set()
    honest = [one for one in found if one.client not in attackers]
    whose = "Honest clients" if attackers else "Clients"
    lines = [f"{whose} that had no part: {_listed(honest, manifest)}."] if honest else []
    if lying := [one for one in found if one.client in attackers]:
        lines.append(f"Attackers that had no part: {_listed(lying, manifest)}.")
    return lines


def name_of(client: int, manifest: Mapping[str, Any]) -> str:
    """A client's number, with its name where it has one."""
    names = manifest.get("client_names")
    name = names[client] if isinstance(names, list) and client < len(names) else ""
    told = clean(name, limit=MAX_NAME) if isinstance(name, str) else ""
    return f"client {client} ({told})" if told else f"client {client}"


def _listed(found: Sequence[Silence], manifest: Mapping[str, Any]) -> str:
    parts = [f"{name_of(one.client, manifest)}: {one.words}" for one in found[:NAMED]]
    if (left := len(found) - NAMED) > 0:
        parts.append(f"and {left} more, less often")
    return "; ".join(parts)


def _weighs_nothing(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return False
    return entry.get("dropped") is True or number(entry.get("weight")) == 0

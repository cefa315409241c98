"""Whose work a run has not used: clients at weight 0 or refused, by name and how often.

A client that holds what no one else does cannot be told from an attacker. So whoever loses its
weight is said in the headline of a run, where its owner sees it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.report.names import name_of

NAMED = 4  # in a headline; the rest is counted


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


def silences(records: Sequence[RoundRecord]) -> list[Silence]:
    """Everyone who had no part in some round, those with most such rounds first."""
    asked = Counter(client for record in records for client in record.asked)
    refused = Counter(client for record in records for client in record.refused)
    none = Counter(k for record in records for k, dropped in record.dropped.items() if dropped)
    found = [Silence(k, none[k] - refused[k], refused[k], asked[k]) for k in none]
    return sorted(found, key=lambda one: (-(one.zero + one.refused), one.client))


def headlines(found: Sequence[Silence], manifest: Manifest) -> list[str]:
    """One line for honest clients and one for simulated attackers; else one for all clients.

    Args:
        found: As `silences` gives them.
        manifest: The run's.
    """
    attackers = set(manifest.simulated_attackers)
    honest = [one for one in found if one.client not in attackers]
    whose = "Honest clients" if attackers else "Clients"
    lines = [f"{whose} that had no part: {_listed(honest, manifest)}."] if honest else []
    if attacking := [one for one in found if one.client in attackers]:
        lines.append(f"Attackers that had no part: {_listed(attacking, manifest)}.")
    return lines


def _listed(found: Sequence[Silence], manifest: Manifest) -> str:
    parts = [f"{name_of(one.client, manifest)}: {one.words}" for one in found[:NAMED]]
    if (left := len(found) - NAMED) > 0:
        parts.append(f"and {left} more, less often")
    return "; ".join(parts)

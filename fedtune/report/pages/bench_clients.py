"""What a bench's summary says of honest clients and of single rounds, as facts and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedtune.report.pages.markup import line
from fedtune.report.text import number

UNKNOWN = "not known"


@dataclass(frozen=True)
class Least:
    """The least share of a gain, and where it was.

    ``kept``: minus infinity where the loss was no finite number. The rest is None or empty where
    it is not said: a cell's least has no attack, a round's no client.
    """

    kept: float
    attack: str
    round_: int | None
    client: int | None
    name: str
    seed: str

    @property
    def who(self) -> str:
        """The client, in words."""
        named = f" ({self.name})" if self.name else ""
        return "" if self.client is None else f"client {self.client}{named}"

    @property
    def where(self) -> str:
        """Round, client, attack and seed, as far as they are said."""
        told = [] if self.round_ is None else [f"round {self.round_}"]
        told += [part for part in (self.who, self.attack) if part]
        return ", ".join([*told, f"seed {self.seed}"] if self.seed else told)


@dataclass(frozen=True)
class Silenced:
    """Honest clients at weight 0: at most ``clients`` of ``of`` in a run, ``share`` of all rounds.

    ``longest``: the client that was so for the largest share of its rounds, in words.
    """

    clients: int
    of: int
    share: float
    longest: str

    @property
    def words(self) -> str:
        """In words."""
        if not self.clients:
            return "none"
        many = f"{self.clients} of {self.of}, in {100 * self.share:.0f} % of rounds"
        return f"{many}; {self.longest}" if self.longest else many


def read_least(value: object) -> Least | None:
    """A least share; None where the summary has none."""
    if not isinstance(value, Mapping) or "kept" not in value:
        return None
    kept, round_, client = (number(value[key]) if key in value else None
                            for key in ("kept", "round", "client"))  # fmt: skip
    return Least(
        kept=-math.inf if kept is None else kept,
        attack=line(value.get("attack") or ""),
        round_=None if round_ is None else int(round_),
        client=None if client is None else int(client),
        name=line(value.get("name") or "", 80),
        seed="" if value.get("seed") is None else line(value["seed"]),
    )


def read_silenced(value: object) -> tuple[Silenced | None, Silenced | None]:
    """With no attacker, and under attack."""
    found = value if isinstance(value, Mapping) else {}
    return _silenced(found.get("free")), _silenced(found.get("attacked"))


def _silenced(value: Any) -> Silenced | None:  # noqa: ANN401  a file's
    if not isinstance(value, Mapping):
        return None
    counts = [number(value.get(key)) for key in ("clients", "of", "share")]
    if None in counts:
        return None
    clients, of, share = (float(count or 0.0) for count in counts)
    return Silenced(int(clients), int(of), share, _longest(value.get("longest")))


def _longest(value: Any) -> str:  # noqa: ANN401  a file's
    found = read_least({**value, "kept": 0}) if isinstance(value, Mapping) else None
    if found is None:
        return ""
    rounds, asked = number(value.get("rounds")), number(value.get("asked"))
    attack = f" under {found.attack}" if found.attack not in {"", "none"} else ""
    if rounds is None or asked is None:
        return found.who
    return f"{found.who} in {rounds:.0f} of {asked:.0f}{attack}"

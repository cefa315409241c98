"""The default aggregator of a recipe that names none; it needs no data of the server's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RULE: dict[str, Any] = {"name": "capped_spectral", "geometry": "product"}
SHARE = 0.3  # of a round's clients that may lie: f is rounded down
_CLIENTS = 10  # of a recipe that does not say


def with_default_defence(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Lay the default rule under an aggregator section that names none; keys that are given stay.

    It works on products, but for `outer: adam`, which steps coordinates: there on factors.

    Args:
        raw: A recipe as YAML or JSON has it, not validated yet.
    """
    given = raw.get("aggregator", {})
    if not isinstance(given, Mapping) or "name" in given:
        return dict(raw)
    outer = raw.get("outer")
    steps_coordinates = isinstance(outer, Mapping) and outer.get("name") == "adam"
    geometry = {"geometry": "factors"} if steps_coordinates else {}
    f = _default_f(raw.get("federation"))
    return {**raw, "aggregator": {**RULE, **geometry, "f": f, **given}}


def _default_f(federation: object) -> int:
    """Three tenths of a round's clients; what is no count is left for validation to name."""
    section = federation if isinstance(federation, Mapping) else {}
    asked = section.get("clients_per_round") or section.get("num_clients", _CLIENTS)
    return int(SHARE * _count(asked) + 1e-9)


def _count(value: object) -> int:
    """What pydantic will read as a count, 10 or 10.0 or "10"; 0 for all else."""
    try:
        return max(int(value), 0) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0

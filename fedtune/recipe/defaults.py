"""Defaults that depend on other keys: each is resolved here, when a recipe is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

Combination = Literal["factors", "exact", "dense"]

RULE: dict[str, Any] = {"name": "capped_spectral", "geometry": "product"}
SHARE = 0.3  # of a round's clients that may be Byzantine: f is rounded down
OUTER: dict[str, dict[str, Any]] = {
    "fedavg": {"lr": 1.0},
    "nesterov": {"lr": 0.7, "momentum": 0.5},
    "adam": {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8},
}
_CLIENTS = 10  # of a recipe that does not say


def resolve(section: BaseModel, values: Mapping[str, Any]) -> None:
    """Set the keys of a section that are null, in place; `model_fields_set` stays what was given.

    Args:
        section: Frozen; called from its own validator, before anyone else sees it.
        values: By key; none of a key that was given is looked at.
    """
    for key, value in values.items():
        if getattr(section, key) is None:
            object.__setattr__(section, key, value)


def combination_of(geometry: str, kind: str) -> Combination:
    """How weighted updates become one, by the geometry and the kind of the rule."""
    return "exact" if geometry == "product" and kind == "gram" else "factors"


def stretch_of(combination: Combination) -> float:
    """How far a client's A may stand from the anchor's rows.

    Of rows that are combined as factors, a stretched one spoils others. Where products are
    combined, none does: there the bound is one on rounding. At a rank near the width of a module
    honest training alone stretches by 5 in ten steps.
    """
    return 3.0 if combination == "factors" else 100.0


def with_default_defence(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Add the default rule to an aggregator section that names none; keys that are given stay.

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

"""Defaults that depend on other keys: each is resolved here, when a recipe is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel

Combination = Literal["factors", "exact", "dense"]

RULE = "capped_spectral"
SHARE = 0.3  # of a round's clients that may be Byzantine: f is rounded down
OUTER: dict[str, dict[str, Any]] = {
    "fedavg": {"lr": 1.0},
    "nesterov": {"lr": 0.7, "momentum": 0.5},
    "adam": {"lr": 1e-3, "betas": (0.9, 0.99), "eps": 1e-8},
}
# Keys of an aggregator section that are no option of a rule.
_SECTION = {
    "name", "f", "mixing", "geometry", "combination", "residual", "max_condition", "max_stretch",
    "client_weights",
}  # fmt: skip
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
    """Fill what an aggregator section does not say: rule, f and geometry; what it says stays.

    f is `SHARE` of a round's clients, or as many as the named rule withstands among so few.
    Products where the rule is defined on them, but for `outer: adam`, which steps coordinates, and
    beside the clients' momentum, which averages rows. The
    mean is FedAvg, the baseline: it withstands no one, and works on factors.

    Args:
        raw: A recipe as YAML or JSON has it, not validated yet.
    """
    given = raw.get("aggregator", {})
    if not isinstance(given, Mapping) or given.get("name") == "mean":
        return dict(raw)
    outer = raw.get("outer")
    steps_coordinates = isinstance(outer, Mapping) and outer.get("name") == "adam"
    asked = {"name": RULE, **given}
    defence = raw.get("defence")
    averages_rows = "name" in given and isinstance(defence, Mapping) and defence.get("momentum")
    on_factors = steps_coordinates or averages_rows or not _takes_products(asked)
    geometry = "factors" if on_factors else "product"
    f = _default_f(asked, raw.get("federation"))
    return {**raw, "aggregator": {"name": RULE, "geometry": geometry, "f": f, **given}}


def _takes_products(section: Mapping[str, Any]) -> bool:
    """Whether the rule is defined on products without a further key; of an unknown one, no."""
    from aggregators import AGGREGATORS

    rule = AGGREGATORS.get(section["name"]) if isinstance(section["name"], str) else None
    if rule is None or rule.memory == "history":
        return False
    if rule.kind == "gram":
        return not section.get("noise")
    return bool(section.get("mixing")) or section.get("combination") == "dense"


def _default_f(asked: Mapping[str, Any], federation: object) -> int:
    """As many of a round's clients; what is no count is left for validation to name."""
    from aggregators import plan

    section = federation if isinstance(federation, Mapping) else {}
    count = _count(section.get("clients_per_round") or section.get("num_clients", _CLIENTS))
    most = int(SHARE * count + 1e-9)
    if asked["name"] == RULE or "f" in asked:
        return most
    options = {key: value for key, value in asked.items() if key not in _SECTION}
    try:
        made = plan(asked["name"], mixing=asked.get("mixing") or [], **options)
        return max((f for f in range(most + 1) if made.is_defined(count, f)), default=0)
    except (KeyError, TypeError, ValueError, AttributeError):
        return most  # validation names what is wrong


def _count(value: object) -> int:
    """What pydantic will read as a count, 10 or 10.0 or "10"; 0 for all else."""
    try:
        return max(int(value), 0) if isinstance(value, int | float | str) else 0
    except (ValueError, OverflowError):
        return 0

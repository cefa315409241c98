"""Rules and mixings of other packages: registered in code, or found by their entry points."""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import EntryPoint, entry_points

from aggregators.engine.rule import Rule
from aggregators.registry import AGGREGATORS, MIXINGS

GROUP = "fedtune.aggregators"


def register(rule: Rule) -> Rule:
    """Make a rule or a mixing known by its name, to recipes, listings and the bench alike.

    Args:
        rule: ``kind`` says whether it is a rule or a mixing.

    Returns:
        The rule as it came, so that ``RULE = register(Rule(...))`` reads well.

    Raises:
        ValueError: If another rule or mixing has its name. Registering the same object again
            does nothing.
    """
    known = MIXINGS if rule.kind == "mixing" else AGGREGATORS
    holder = known.get(rule.name)
    if holder is not None and holder is not rule:
        raise ValueError(
            f"{rule.name} needs a name that is free: another {_what(rule)} has it "
            f"({holder.source}); rename yours"
        )
    known[rule.name] = rule
    return rule


def load_installed() -> None:
    """Register what installed packages offer under the entry points of `GROUP`.

    An entry point is a `Rule`. One that cannot be loaded is left out with a warning that names its
    package: it must not take the rest of the library with it.
    """
    for point in sorted(entry_points(group=GROUP), key=lambda each: (each.name, each.value)):
        try:
            register(_rule_of(point))
        except Exception as error:
            if _is_being_imported(point.module):
                continue  # it imports us, and calls `register` itself
            warnings.warn(f"{_origin(point)} is left out: {error}", stacklevel=2)


def _rule_of(point: EntryPoint) -> Rule:
    rule = point.load()
    if not isinstance(rule, Rule):
        raise TypeError(f"it needs an aggregators.Rule; got {type(rule).__name__}")
    if rule.name != point.name:
        raise ValueError(f"its rule is called {rule.name!r}; give both one name")
    return rule


def _origin(point: EntryPoint) -> str:
    package = point.dist.name if point.dist is not None else "an unnamed package"
    return f"{GROUP}: {point.name} of {package}"


def _what(rule: Rule) -> str:
    return "mixing" if rule.kind == "mixing" else "rule"


def _is_being_imported(module: str) -> bool:
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return bool(getattr(spec, "_initializing", False))

"""How many clients of a round can end with weight 0, by the rule and what runs before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from fedtune.recipe import Recipe

# By (n, f, options). Rules that are not here weigh every client, or work on columns; a geometric
# median may stand on one row, and is still where all others hold it.
_OF_RULE: dict[str, Callable[[int, int, Mapping[str, Any]], int]] = {
    "krum": lambda n, f, options: n - 1,
    "multi_krum": lambda n, f, options: n - (options.get("m") or n - f),
    "mda": lambda n, f, options: f,
    "minimum_variance": lambda n, f, options: f,
    "smea": lambda n, f, options: f,
    "caf": lambda n, f, options: max(2 * f - 1, 0),  # its weights sum to more than n - 2f
    "capped_spectral": lambda n, f, options: f,
    "cge": lambda n, f, options: f,
    "dnc": lambda n, f, options: math.ceil(options["c"] * f),
    "fltrust": lambda n, f, options: n,
    "foolsgold": lambda n, f, options: n,
    "flame": lambda n, f, options: n - (n // 2 + 1),
    "bulyan": lambda n, f, options: 2 * f,  # its selection's; then it works on columns
}


def most_weightless(recipe: Recipe) -> int:
    """The most clients of a full round that can have no part in its aggregate.

    Exact for rules that pick whole clients; an upper bound where a mixing runs before them. Those
    that columns drop at every coordinate are not counted.
    """
    n, f = recipe.federation.sample_size, recipe.aggregator.f
    plan = recipe.aggregator.plan()
    mixings = [step for step in plan.chain if step.rule is not plan.last.rule.first]
    rows = n
    for step in mixings:
        rows = step.rule.count_rows(rows, step.options)
    of_rule = _OF_RULE.get(plan.last.rule.name)
    weightless = 0 if of_rule is None else of_rule(rows, f, plan.last.options)
    for step in reversed(mixings):
        if step.rule.name == "nnm":  # each mixed row holds n - f clients, its own among them
            weightless = min(weightless, f)
        elif step.rule.name == "bucketing":
            weightless *= step.options["s"]
        elif step.rule.leaves_out:
            weightless += f
    if recipe.defence.suspicion is not None:
        weightless += min(f, recipe.aggregator.spare(n, f))
    return min(weightless, n)

"""Everything that can be known to be wrong with a recipe before a model is loaded."""

from __future__ import annotations

from collections.abc import Collection

from fedtune.recipe import Recipe
from fedtune.recipe.beside import judging
from fedtune.runs.checks.at_once import problems_at_once

_MODEL = "model.name_or_path:"


def find_problems(
    recipe: Recipe, *, promised: Collection[str] = (), quick: bool = False
) -> list[str]:
    """What would stop this run, a line each; empty if nothing is known to.

    Args:
        recipe: The run's.
        promised: Folders of runs that will be done before: none of their adapters is missed.
        quick: Try neither rows, nor modules, nor the trainer: that imports all of the libraries
            that train, which takes seconds.
    """
    with judging(recipe.beside):
        problems = problems_at_once(recipe, promised)
        if quick:
            return problems
        from fedtune.runs.checks.tried import problems_when_tried

        known = any(each.startswith(_MODEL) for each in problems)  # what is tried finds it again
        tried = problems_when_tried(recipe)
        return problems + [each for each in tried if not (known and each.startswith(_MODEL))]

"""Under sign_flip(scale 10) the mean is ruined, and the quickstart's rule keeps its gain.

The gain is the base's held-out loss less the final one. The oracle is what the honest clients
reach alone: the same run in which the liars say nothing, under the plain mean.

Not proven here: other attacks, other seeds, other data; the bench tells.
"""

import pytest

from fedtune.recipe import load_recipe, parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute

SILENT = {"name": "silence"}


def losses(recipe, **changes):
    """Base loss and final loss of the recipe with other sections in place of its own."""
    recipe = parse_recipe({**recipe.model_dump(mode="json"), **changes})
    folder, recipe = RunFolder.create(recipe)
    execute(recipe, folder)
    lines = folder.read_metrics()
    return lines[0]["eval"]["loss"], lines[-1]["eval"]["loss"]


def claim(recipe):
    liars = recipe.attack.num_attackers
    silent = {**SILENT, "num_attackers": liars}
    base, robust = losses(recipe)
    _, oracle = losses(recipe, aggregator={"name": "mean"}, attack=silent)
    _, ruined = losses(recipe, aggregator={"name": "mean"})
    kept = (base - robust) / (base - oracle)
    print(
        f"\n{liars} of {recipe.federation.num_clients} lie: base {base:.3f}, "
        f"honest alone {oracle:.3f}, {recipe.aggregator.name} {robust:.3f} "
        f"({kept:.1%} of the gain), mean {ruined:.3f}"
    )
    assert ruined > base
    assert oracle < base
    assert kept >= 0.9


def test_the_quickstarts_rule_withstands_one_liar_of_five_on_a_tiny_model(tiny_recipe):
    shipped = load_recipe("quickstart")
    claim(
        tiny_recipe(
            federation={"num_clients": 5, "num_rounds": 3, "local_steps": 4},
            aggregator={**shipped.aggregator.model_dump(), "f": 1},
            outer=shipped.outer.model_dump(exclude_none=True),
            attack={**shipped.attack.model_dump(exclude_none=True), "num_attackers": 1},
            evaluation={"every": 3},
        )
    )


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quickstart_as_shipped_withstands_its_two_liars_of_ten(tmp_path):
    recipe = load_recipe("quickstart", [f"output_dir={tmp_path / 'run'}"])
    assert recipe.attack.name == "sign_flip"
    assert recipe.attack.options == {"scale": 10}
    assert (recipe.attack.num_attackers, recipe.federation.num_clients) == (2, 10)
    claim(recipe)

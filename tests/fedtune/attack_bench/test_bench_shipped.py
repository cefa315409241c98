"""The benches that come with fedtune: what lies in them, and what of it cannot run.

Not proven here: that their cells run, nor how long that takes.
"""

import pytest

from aggregators import AGGREGATORS
from attacks import ATTACKS
from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.schema import load_bench
from fedtune.recipe import RecipeError, shipped_recipes
from fedtune.recipe.source import shipped_benches


def test_a_shipped_bench_is_found_by_name_and_is_no_recipe():
    assert "bench_smoke" in shipped_benches()
    assert not set(shipped_benches()) & set(shipped_recipes())
    with pytest.raises(RecipeError, match="did you mean 'bench_smoke'"):
        load_bench("bench_smok")


# What cannot run among ten clients: bulyan needs 4f + 3 of them, 11 at f=2; buckets of two leave
# geometric_median five rows, and it needs 2f + 1 = 7 at f=3.
REFUSED = {
    "bench_beyond": set(),
    "bench_full": set(),
    "bench_geometry": set(),
    "bench_minority": set(),
    "bench_smoke": set(),
    "bench_vectors": {
        ("bulyan", 0.2),
        ("bulyan", 0.3),
        ("bucketing + geometric_median", 0.3),
    },
}


@pytest.mark.parametrize("name", sorted(shipped_benches()))
def test_every_shipped_bench_lays_out(name):
    """Nothing but what is known to is refused or skipped, for every attack and seed."""
    bench = load_bench(name)
    cells = lay_out(bench)
    assert {cell.state for cell in cells} <= {"open", "refused"}
    refused = [(cell.defence, cell.fraction) for cell in cells if cell.state == "refused"]
    assert set(refused) == REFUSED[name]
    assert len(refused) == len(REFUSED[name]) * (1 + len(bench.attacks)) * len(bench.seeds)
    runs = sum(len(bench.seeds_of(defence)) for defence in bench.defences)
    references = 2 + 3 * (
        name in {"bench_beyond", "bench_full", "bench_smoke"}
    )  # and the floor of a backdoor
    of_a_table = (1 + len(bench.attacks)) * runs + references * len(bench.seeds)
    assert len(cells) == of_a_table * len(bench.fractions)


def test_the_bench_of_vectors_leaves_out_what_its_head_says_and_nothing_else():
    bench = load_bench("bench_vectors")
    attacks = {attack["name"] for attack in bench.attacks.values()}
    taught = {"data", "training", "reward"}
    data = {name for name, attack in ATTACKS.items() if attack.level in taught}
    searched = {name for name, attack in ATTACKS.items() if attack.searches}
    assert searched >= {"capture", "framing", "searched"}
    assert set(ATTACKS) - attacks == data | searched | {"constrain_and_scale"}
    rules = {column["aggregator"]["name"] for column in bench.defences.values()}
    assert set(AGGREGATORS) - rules == {"fltrust"}

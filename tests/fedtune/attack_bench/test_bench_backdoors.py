"""Backdoor success beyond the untriggered, its largest over the rounds, and the floor, by hand.

Not proven here: that runs record what this reads (test_bench_training).
"""

import pytest
from hand_made_bench import BENCH, cell_of, client, summary_of

from fedtune.attack_bench.backdoors import above, at_end, at_most, floor_of, net_curve
from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.interval import stat
from fedtune.attack_bench.schema import FLOORS, Bench
from fedtune.records.bench_result import Line, Outcome


def run(*points, status="done"):
    """Success and the same without the trigger, by round."""
    curve = [[at, *pair] for at, pair in enumerate(points)]
    door = {"before": points[0][0], "after": points[-1][0], "curve": curve}
    return Outcome.model_validate({"status": status, "backdoor": door})


def test_what_the_model_says_to_everyone_is_no_backdoor():
    # the base says it to no one; then 0.75 - 0.25, 0.5 - 0.5, 0.625 - 0.25
    mine = run((0.0, 0.0), (0.75, 0.25), (0.5, 0.5), (0.625, 0.25))
    assert net_curve(mine) == [(1, 0.5), (2, 0.0), (3, 0.375)]
    assert (at_end(mine), at_most(mine)) == (0.375, 0.5)


@pytest.mark.parametrize(
    "line",
    [
        Outcome(),
        Outcome(backdoor={"before": 0.0, "after": 0.5}),  # as it was written before
        run((0.0, None), (0.5, None)),
        run((0.0, 0.0), (0.5, 0.0), status="diverged"),
    ],
)
def test_what_does_not_say_has_no_net_success(line):
    assert (net_curve(line), at_end(line), at_most(line)) == ([], None, None)


def test_the_worst_rate_of_each_seed_is_the_floor():
    ends = {"floor 25 %": (0.25, 0.5), "floor 50 %": (0.375, 0.125), "floor 100 %": (0.0, 0.25)}
    cells = {
        label: {
            seed: run((0.0, 0.0), (0.75 if label == "floor 100 %" else 0.0, 0.0), (end, 0.0))
            for seed, end in enumerate(pair)
        }
        for label, pair in ends.items()
    }
    floor = floor_of(cells)
    # by seed the largest end: 0.375 and 0.5; the largest of all rounds: 0.75, by the rate of 100 %
    assert floor.end.values == {"0": 0.375, "1": 0.5}
    assert floor.most.values == {"0": 0.75, "1": 0.75}
    assert [each.rate for each in floor.rates] == [0.25, 0.5, 1.0]
    own = stat({0: 0.5, 1: 0.25, 2: 1.0})
    assert above(own, floor.end).values == {"0": 0.125, "1": -0.25}  # seed 2 has no floor
    del cells["floor 50 %"][0]
    assert floor_of(cells).end.values == {"1": 0.5}  # what is not run may be the worst
    cells["floor 100 %"] = {}
    assert floor_of(cells).end is None
    assert floor_of({label: {} for label in FLOORS}) is None


def test_a_cell_says_how_far_it_is_above_the_floor():
    attacks = BENCH.attacks | {"door": {"name": "constrain_and_scale", "poison": "trigger"}}
    bench = Bench.model_validate(BENCH.model_dump() | {"attacks": attacks})
    assert [each["rate"] for each in bench.floors.values()] == [0.25, 0.5, 1.0]

    def made(cell, success):
        door = run((0.0, 0.0), (success, 0.0), (success - 0.125, 0.0)).backdoor.model_dump()
        return {
            "attack": cell.attack, "defence": cell.defence, "fraction": 0.2, "seed": cell.seed,
            "status": "done", "message": "", "base": 5.0, "loss": 3.0, "curve": [],
            "worst_client": None, "backdoor": door, "clients": {"0": client(False)},
            "command": "", "code": "c", "machine": "m", "seconds": 1.0, "cell": str(cell.seed),
        }  # fmt: skip

    successes = {**dict.fromkeys(FLOORS, 0.25), "floor 50 %": 0.5, "door": 0.75}
    lines = [made(cell, successes.get(cell.attack, 0.125)) for cell in lay_out(bench)]
    from fedtune.attack_bench.summary import summarise

    told = summarise(
        bench, lay_out(bench), [Line.model_validate(each) for each in lines], command="x"
    )
    (table,) = told.model_dump(mode="json")["tables"]
    assert (table["floor"]["end"]["mean"], table["floor"]["most"]["mean"]) == (0.375, 0.5)
    cell = cell_of(table, "door", "a")
    # at the end 0.625 - 0.375; at most 0.75 - 0.5
    assert (cell["above_floor"]["mean"], cell["most_above_floor"]["mean"]) == (0.25, 0.25)
    assert cell["backdoor_peak"] == {"success": 0.75, "round": 1, "seed": 0}
    assert cell["kept"] == 1 - 0.625  # by what is beyond the untriggered


def test_floors_are_laid_out_where_a_backdoor_is_planted_and_nowhere_else():
    assert BENCH.floors == {}
    _, table = summary_of()
    assert table["floor"] is None
    planted = {"name": "trigger", "token": "xq", "target": "No.", "rate": 0.125}
    raw = BENCH.model_dump() | {"attacks": {"t": planted}}
    bench = Bench.model_validate(raw)
    cells = [cell for cell in lay_out(bench) if cell.attack in FLOORS]
    assert len(cells) == 3 * 2  # three rates, two seeds, once for all defences
    assert {cell.defence for cell in cells} == {"mean of all"}
    recipe = next(cell.recipe for cell in cells if cell.attack == "floor 50 %")
    assert recipe.aggregator.name == "mean"
    assert recipe.attack.num_attackers == 2
    assert recipe.attack.data_attack == (
        "trigger",
        {"token": "xq", "target": "No.", "rate": 0.5},
    )
    vectors = raw | {"level": "vectors", "rounds": "recorded"}
    assert Bench.model_validate(vectors).floors == {}


def test_an_attack_with_a_search_is_marked_and_one_that_tries_the_rule_too():
    _, table = summary_of(
        attacks={"alie": {"name": "alie"}, "white box": {"name": "optimised_alie"}}
    )
    assert [(each["label"], each["searched"]) for each in table["attacks"]] == [
        ("alie", False),
        ("white box", True),
    ]

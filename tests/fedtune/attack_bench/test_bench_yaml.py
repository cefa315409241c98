"""From BENCH.yaml to cells: what is refused, in which words, and what each cell is.

Not proven here: that cells run (test_bench_runs), nor what their numbers mean (test_bench_numbers).
"""

import copy
import shlex

import pytest
import yaml

from attacks import ATTACKS
from fedtune.attack_bench.cells import QUIET, lay_out
from fedtune.attack_bench.run import run_command
from fedtune.attack_bench.schema import ITS_OWN, Bench, load_bench
from fedtune.attack_bench.summary import summarise
from fedtune.attack_bench.vetting import vet
from fedtune.recipe import RecipeError, load_recipe, shipped_recipes

PLAIN = {
    "title": "Plain",
    "fractions": [0.2, 0.3],
    "seeds": [0, 1],
    "set": {"federation.num_rounds": 2, "train": {"learning_rate": 1e-3}},
    "defences": {
        "mean": {"aggregator": {"name": "mean"}},
        "krum": {"aggregator": {"name": "krum"}, "outer": {"name": "fedavg"}},
    },
    "attacks": {"alie": {"name": "alie", "z": 1.5}, "flip": {"name": "sign_flip"}},
}


@pytest.fixture
def written(tmp_path):
    """Return a function: changes to PLAIN by dotted key -> the name of a bench file."""

    def write(changes=None):
        raw = copy.deepcopy(PLAIN)
        for key, value in (changes or {}).items():
            raw[key] = value
        path = tmp_path / "bench.yaml"
        path.write_text(yaml.safe_dump(raw, sort_keys=False))
        return str(path)

    return write


def refusal(written, changes, *overrides):
    with pytest.raises(RecipeError) as caught:
        lay_out(load_bench(written(changes), overrides))
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"defenses": {}}, "defenses: unknown key; did you mean 'defences'?"),
        ({"level": "vector"}, "'training' or 'vectors'"),
        ({"base": "quikstart"}, "did you mean 'quickstart'"),
        ({"fractions": [0.25]}, "0.25 of 10 clients is 2.5: needs a whole count"),
        ({"fractions": [0.2, 0.2]}, "fractions: needs each once"),
        (
            {"chosen_on": {"seeds": [1, 7]}},
            "chosen_on.seeds: needs other seeds than those reported",
        ),
        ({"chosen_on": {"seeds": [1, 7]}}, "got [1] in both"),
        ({"chosen_on": {"seeds": []}}, "chosen_on.seeds"),
        ({"attacks": {"floor 50 %": {"name": "alie"}}}, "the name of a reference"),
        ({"fractions": [1.0]}, "less than 1"),
        ({"seeds": []}, "seeds"),
        ({"fewer_seeds": {"kurm": 1}}, "fewer_seeds.kurm: no such defence; did you mean 'krum'"),
        ({"fewer_seeds": {"krum": 0}}, "fewer_seeds.krum"),
        ({"set": {"federation.num_round": 2}}, "base: federation.num_round: unknown key"),
        ({"set": {"lora": {"rr": 2}}}, "base: lora.rr: unknown key"),
        ({"attacks": {"a": {"name": "allie"}}}, "attacks.a.name: no attack 'allie'; did you mean"),
        ({"attacks": ["allie"]}, "attacks.allie.name: no attack 'allie'"),
        (
            {"attacks": {"a": {"name": "alie", "zz": 1}}},
            "attacks.a: attack: alie needs options among",
        ),
        ({"attacks": {"a": {"name": "alie", "num_attackers": 1}}}, "fractions say how many attack"),
        ({"attacks": {"none": {"name": "alie"}}}, "the name of a reference"),
        ({"defences": {"oracle": {}}}, "the name of a reference"),
        ({"defences": {"k": {"aggregator": {"name": "krun"}}}}, "defences.k: aggregator: no aggr"),
        ({"defences": {"k": {"aggregatr": {"name": "krum"}}}}, "defences.k: aggregatr: unknown"),
        ({"defences": {"k": {"aggregator": "krum"}}}, "needs a section of a recipe"),
        ({"defences": {"k": {"attack": {"name": "alie"}}}}, "all columns share it"),
        ({"defences": {"k": {"federation": {"seed": 3}}}}, "defences.k.federation.seed"),
        (
            {"defences": {"k": {"data": {"server_rows": 9}}}},
            "defences.k.data: all columns share it",
        ),
        ({"set": {"federation.engine": "ray"}}, "set.federation.engine: the bench sets it"),
        ({"set": {"federation": {"seed": 3}}}, "set.federation.seed: the bench sets it"),
        ({"set": {"evaluation.every": 2}}, "set.evaluation.every: the bench sets it"),
        ({"set": {"evaluation": {"samples": 2}}}, "set.evaluation.samples: the bench sets it"),
        ({"set": {"checkpoint.keep": 2}}, "set.checkpoint.keep: the bench sets it"),
        ({"set": {"attack": {"name": "alie"}}}, "set.attack: the bench sets it"),
        ({"set": {"attack.name": "alie"}}, "set.attack.name: the bench sets it"),
        ({"set": {"output_dir": "x"}}, "set.output_dir: the bench sets it"),
        (
            {"level": "vectors", "rounds": "drawn", "set": {"federation.num_rounds": 2}},
            "set.federation.num_rounds: the bench sets it",
        ),
        (
            {"level": "vectors", "rounds": "drawn", "set": {"outer": {"name": "adam"}}},
            "set.outer: the bench sets it",
        ),
        ({"rounds": "recorded"}, "of level vectors alone"),
        ({"level": "vectors"}, "level vectors needs rounds"),
        ({"level": "vectors", "rounds": "drawm"}, "rounds"),
        ({"level": "vectors", "rounds": {"drawn": {"d_on": 3}}}, "rounds.drawn.d_on: unknown key"),
        (
            {"level": "vectors", "rounds": "drawn", "set": {}},
            "defences.krum.outer: level vectors takes given",
        ),
    ],
)
def test_what_is_mistyped_is_an_error(written, changes, told):
    assert told in refusal(written, changes)


def test_overrides_are_laid_over(written):
    bench = load_bench(written(), ["seeds=[4]", "set.federation.num_rounds=7", "f=1"])
    cells = lay_out(bench)
    assert {cell.seed for cell in cells} == {4}
    assert {cell.recipe.federation.num_rounds for cell in cells if cell.recipe} == {7}
    assert "needs the form" in refusal(written, {}, "seeds")


def test_the_cells_and_their_order(written):
    cells = lay_out(load_bench(written()))
    # per fraction: oracle 2 seeds, mean of all 2, (none + 2 attacks) x 2 defences x 2 seeds = 16
    assert len(cells) == 2 * 16
    told = [(c.attack, c.defence, c.num_attackers, c.f, c.seed) for c in cells[16:22]]
    assert told == [
        ("oracle", "mean of all", 3, 0, 0),
        ("oracle", "mean of all", 3, 0, 1),
        ("none", "mean of all", 0, 0, 0),
        ("none", "mean of all", 0, 0, 1),
        ("none", "mean", 0, 3, 0),
        ("none", "mean", 0, 3, 1),
    ]
    assert all(cell.recipe.federation.seed == cell.seed for cell in cells)
    oracle = cells[16].recipe
    assert (oracle.attack.name, oracle.attack.num_attackers) == ("silence", 3)
    assert (oracle.aggregator.name, oracle.aggregator.mixing) == ("mean", [])
    assert cells[20].recipe.attack is None
    krum = next(c.recipe for c in cells if (c.attack, c.defence) == ("alie", "krum"))
    assert krum.outer.name == "fedavg"  # its own; the base has nesterov
    assert krum.aggregator.mixing == []  # said whole: the base's nnm does not leak in
    assert krum.evaluation.every == 1
    assert krum.evaluation.per_client
    assert krum.train["learning_rate"] == 1e-3


def test_the_seeds_of_the_choice_are_a_note_and_move_nothing(written):
    plain = lay_out(load_bench(written()))
    noted = load_bench(written({"chosen_on": {"seeds": [7, 8]}}))
    assert lay_out(noted) == plain
    told = summarise(noted, plain, [], command="x")
    assert told.chosen_on == {"seeds": [7, 8]}
    assert "the defences were chosen on seeds 7, 8, and are reported on seeds 0, 1" in told.notes
    assert summarise(load_bench(written()), plain, [], command="x").chosen_on is None


def test_an_attack_that_cannot_be_told_has_no_floor_either(written, tmp_path):
    """Rows of text alone hold no trigger: the attack and its floor are skipped, not run."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"text": "row number {i}"}}\n' for i in range(200)))
    data = {"source": str(rows), "partition": {"by": "iid", "min_rows": 2}}
    attacks = {"t": {"name": "trigger"}}
    bench = load_bench(written({"attacks": attacks, "set": {"data": data}, "seeds": [0]}))
    cells = {(cell.attack, cell.state) for cell in vet(bench, lay_out(bench))}
    assert ("t", "skipped") in cells
    assert ("floor 50 %", "skipped") in cells
    assert ("oracle", "open") in cells


def test_a_column_may_take_fewer_seeds(written):
    cells = lay_out(load_bench(written({"fewer_seeds": {"krum": 1}})))
    assert len(cells) == 2 * (16 - 3)
    assert {cell.seed for cell in cells if cell.defence == "krum"} == {0}
    assert {cell.seed for cell in cells if cell.defence == "mean"} == {0, 1}


def test_f_is_the_tables_unless_the_bench_or_the_column_says_it(written):
    own = {
        "mean": {"aggregator": {"name": "krum", "f": 1}},
        "krum": {"aggregator": {"name": "krum"}},
    }
    for f, expected in ((None, [2, 3]), (1, [1, 1])):
        cells = lay_out(load_bench(written({"f": f, "defences": own})))
        assert {c.recipe.aggregator.f for c in cells if c.defence == "mean"} == {1}
        assert [c.f for c in cells if c.defence == "krum" and c.attack == "alie"][::2] == expected


def test_a_rule_that_refuses_the_counts_is_a_cell_and_no_error(written):
    # bulyan needs n >= 4f + 3: 11 at f=2. multi_krum n >= 2f + 3: 9 at f=3, and 10 are there.
    columns = {
        "bulyan": {"aggregator": {"name": "bulyan"}},
        "mk": {"aggregator": {"name": "multi_krum"}},
    }
    cells = lay_out(load_bench(written({"defences": columns})))
    refused = [cell for cell in cells if cell.state == "refused"]
    assert {cell.defence for cell in refused} == {"bulyan"}
    assert len(refused) == 2 * 3 * 2
    assert "bulyan needs n >= 4f + 3: got n=10, f=2" in refused[0].message


def test_a_part_that_needs_f_does_not_hide_a_refused_count(written):
    """defence.suspicion refuses f = 0, so f = 0 cannot tell whether it is the count alone."""
    column = {"k": {"aggregator": {"name": "caf"}, "defence": {"suspicion": 0.5}}}
    cells = lay_out(load_bench(written({"defences": column, "f": 5})))  # caf needs n >= 2f + 1
    assert {cell.state for cell in cells if cell.defence == "k"} == {"refused"}


def test_data_attacks_are_not_on_vectors(written):
    changes = {
        "level": "vectors",
        "rounds": "drawn",
        "set": {},
        "defences": {"mean": {"aggregator": {"name": "mean"}}, "base": None},
        "attacks": "all",
    }
    bench = load_bench(written(changes))
    cells = lay_out(bench)
    skipped = {cell.attack for cell in cells if cell.state == "skipped"}
    assert skipped == {
        name
        for name, attack in ATTACKS.items()
        if attack.level in {"data", "training", "reward"} or "loss" in attack.needs
    }
    assert {cell.recipe.outer.name for cell in cells if cell.recipe} == {"fedavg"}


def test_an_identity_sees_what_moves_the_result_and_nothing_else(written):
    def keys(*overrides):
        cells = lay_out(load_bench(written(), overrides))
        told = {(c.attack, c.defence, c.fraction, c.seed): c.identify("training") for c in cells}
        assert len(told) == len(cells)
        return told

    plain = keys()
    more = keys("attacks.noise={name: gaussian}", "defences.median={aggregator: {name: median}}")
    assert {key: more[key] for key in plain} == plain
    assert keys("title=Other") == plain
    other = keys("set.train.learning_rate=2e-3")
    assert not set(other.values()) & set(plain.values())
    one = lay_out(load_bench(written()))[0]
    assert one.identify("training") != one.identify("vectors")
    assert one.identify("vectors", "rows") != one.identify("vectors", "others")
    # the same run under two labels is one cell: the mean of all does not depend on the fraction
    assert plain["none", "mean of all", 0.2, 0] == plain["none", "mean of all", 0.3, 0]


def test_the_command_of_a_cell_is_its_recipe(written, tmp_path):
    raw = yaml.safe_load(shipped_recipes()["quickstart"].read_text())
    raw["evaluation"]["every"] = 2  # the bench's is another, so its command has to say it
    base = tmp_path / "every_other.yaml"
    base.write_text(yaml.safe_dump(raw))
    bench = load_bench(written({"base": str(base)}))
    command = run_command(bench)
    for cell in lay_out(bench):
        if cell.recipe is None:
            continue
        program, run, name, *overrides = shlex.split(command(cell))
        assert (program, run) == ("fedtune", "run")
        again = load_recipe(name, overrides)
        quiet = ("checkpoint", "report_to", "output_dir")
        for key in (*quiet, "evaluation"):
            again = again.model_copy(update={key: getattr(cell.recipe, key)})
        assert again == cell.recipe
        assert load_recipe(name, overrides).evaluation.every == 1


def test_vetting_tells_what_only_the_model_and_the_data_know(written):
    bench = load_bench(written({"set": {"lora.target_modules": ["qq_proj"]}}))
    with pytest.raises(RecipeError, match=r"base: lora\.target_modules: no module 'qq_proj'"):
        vet(bench, lay_out(bench))
    column = {"mean": {"lora": {"target_modules": ["qq_proj"]}}}
    bench = load_bench(written({"defences": column}))
    with pytest.raises(RecipeError, match=r"defences\.mean: lora\.target_modules"):
        vet(bench, lay_out(bench))


def test_vetting_skips_an_attack_that_has_no_meaning_here(written):
    lies = {"flip": {"name": "preference_flip"}, "alie": {"name": "alie", "z": 1}}
    bench = load_bench(written({"attacks": lies, "fractions": [0.2], "seeds": [0]}))
    cells = vet(bench, lay_out(bench))
    states = {(cell.attack, cell.state) for cell in cells if cell.attack in lies}
    assert states == {("flip", "skipped"), ("alie", "open")}
    assert all(cell.message for cell in cells if cell.state == "skipped")


def test_drawn_rows_that_do_not_fit_the_rank(written):
    column = {"mean": {"aggregator": {"name": "mean"}}}
    changes = {"level": "vectors", "rounds": {"drawn": {"d_in": 4}}, "defences": column, "set": {}}
    bench = load_bench(written(changes))
    with pytest.raises(RecipeError, match=r"at least lora\.r: got 4 and 24 with r=8"):
        vet(bench, lay_out(bench))


@pytest.mark.parametrize("rounds", ["drawn", "recorded"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"federation.clients_per_round": 9}, r"base: federation\.clients_per_round: given rows"),
        ({"lora.train": "b_only"}, r"base: lora\.train: given rows"),
    ],
)
def test_vectors_refuse_what_given_rows_cannot_tell(written, rounds, given, told):
    """Before anything is recorded: a sample of the clients has no such oracle."""
    column = {"mean": {"aggregator": {"name": "mean"}}}
    changes = {"level": "vectors", "rounds": rounds, "set": given, "defences": column}
    bench = load_bench(written(changes))
    with pytest.raises(RecipeError, match=told):
        vet(bench, lay_out(bench))


def test_every_key_that_cells_are_given_is_refused_in_set():
    """Else a bench would take an option and do nothing with it."""
    assert {key for key, _ in QUIET} < set(ITS_OWN)


def test_a_bench_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Bench.model_validate(PLAIN).title = "Other"

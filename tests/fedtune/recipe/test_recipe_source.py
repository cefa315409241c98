"""From YAML and overrides to a recipe: what is read, and how it travels."""

import tracemalloc
from operator import attrgetter
from pathlib import Path

import pytest

from fedtune.recipe import (
    Attack,
    Recipe,
    RecipeError,
    Source,
    find_recipe,
    load_recipe,
    parse_recipe,
    shipped_recipes,
    to_yaml,
)
from fedtune.recipe.stages import load

ROOT = Path(__file__).parents[3]
RECIPE = attrgetter("recipe")

EVERYTHING = """
task: sft
model: {name_or_path: some/folder, revision: main, dtype: float32, device: cpu}
lora: {r: 4, lora_alpha: 8.5, target_modules: [q_proj, v_proj], modules_to_save: [lm_head]}
data:
  source: {path: json, data_files: [a.jsonl, b.jsonl], split: train}
  partition: {by: dirichlet, column: topic, alpha: 0.1}
  max_rows: 100
train: {learning_rate: 2e-3, lr_scheduler_kwargs: {num_cycles: 2}, weight_decay: 0}
federation: {num_clients: 9, clients_per_round: 7, seed: 3}
aggregator: {name: multi_krum, f: 2, mixing: [nnm], m: 3}
outer: {name: adam, lr: 1e-2, betas: [0.8, 0.9]}
attack: {name: sign_flip, num_attackers: 2, scale: 10, of: own, knowledge: own}
report_to: tensorboard
output_dir: runs/all of it
"""


@pytest.fixture
def written(tmp_path):
    """Return a function that writes a recipe and gives its path."""

    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def problems(written, text, *overrides):
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(text), overrides)
    return caught.value.problems


def test_every_shipped_recipe_loads():
    found = (ROOT / "recipes").rglob("*.yaml")
    files = {path.relative_to(ROOT) for path in found if not path.name.startswith("bench_")}
    shipped = shipped_recipes()
    assert {path.relative_to(ROOT) for path in shipped.values()} == files
    assert "quickstart" in shipped
    for name in shipped:
        loaded = load(name)
        for recipe in [loaded] if isinstance(loaded, Recipe) else map(RECIPE, loaded.stages):
            assert parse_recipe(recipe.model_dump_json()) == recipe


def test_a_recipe_is_found_by_path_or_by_name(written):
    path = written("{}")
    assert find_recipe(path) == Path(path)
    assert find_recipe("quickstart") == ROOT / "recipes" / "quickstart.yaml"


def test_a_file_that_is_not_there():
    with pytest.raises(RecipeError, match="no such file") as caught:
        load_recipe("quikstart")
    assert "did you mean 'quickstart'?" in str(caught.value)


def test_infinity_travels(written):
    """JSON has no infinity; max_grad_norm must not reach the clients as null."""
    recipe = load_recipe(written("train: {max_grad_norm: .inf}"))
    assert parse_recipe(recipe.model_dump_json()).train == {"max_grad_norm": float("inf")}
    assert load_recipe(written(to_yaml(recipe))) == recipe


@pytest.mark.parametrize("copy", ["json", "yaml"])
def test_a_recipe_travels_whole(written, copy):
    recipe = load_recipe(written(EVERYTHING))
    if copy == "json":
        back = parse_recipe(recipe.model_dump_json())
    else:
        back = load_recipe(written(to_yaml(recipe)))
    assert back == recipe
    assert back.aggregator.options == {"m": 3}
    assert back.attack.options == {"scale": 10, "of": "own"}
    assert back.data.source == Source(path="json", data_files=["a.jsonl", "b.jsonl"])
    assert back.outer.betas == (0.8, 0.9)
    assert back.train["lr_scheduler_kwargs"] == {"num_cycles": 2}
    assert back.report_to == ["tensorboard"]
    assert back.output_dir == Path("runs/all of it")


def test_options_are_part_of_equality(written):
    recipe = load_recipe(written(EVERYTHING))
    other = load_recipe(written(EVERYTHING), ["aggregator.m=4"])
    assert other != recipe
    assert Attack(name="sign_flip", num_attackers=1, scale=2) != Attack(
        name="sign_flip", num_attackers=1, scale=3
    )


@pytest.mark.parametrize(
    ("text", "number"),
    [("2e-3", 0.002), ("2.0e-3", 0.002), ("1E+5", 1e5), ("-3e4", -3e4), ("5e2", 500.0)],
)
def test_a_float_without_a_dot_is_a_float(written, text, number):
    """YAML 1.1, which PyYAML reads, takes 2e-3 for a string."""
    value = load_recipe(written(f"train: {{learning_rate: {text}}}")).train["learning_rate"]
    assert isinstance(value, float)
    assert value == number
    overridden = load_recipe(written("{}"), [f"train.learning_rate={text}"])
    assert overridden.train["learning_rate"] == number


def test_what_only_looks_like_a_float_stays_a_string(written):
    train = load_recipe(written("train: {a: 3e4x, b: e5, c: 12, d: '2e-3'}")).train
    assert train == {"a": "3e4x", "b": "e5", "c": 12, "d": "2e-3"}


def test_overrides_lie_on_top(written):
    recipe = load_recipe(
        written("lora: {r: 4}\nattack: {name: alie, num_attackers: 1}"),
        ["lora.r=16", "lora.target_modules=[k_proj]", "federation.seed=5", "attack=", "lora.r=32"],
    )
    assert recipe.lora.r == 32  # the last one counts
    assert recipe.lora.target_modules == ["k_proj"]
    assert recipe.federation.seed == 5  # a section that the file does not have
    assert recipe.attack is None


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("lora.r", "needs the form section.key=value"),
        ("=3", "needs the form section.key=value"),
        ("task.kind=sft", "task is a value, not a section"),
        ("lora.target_modules=[q", "not readable as YAML"),
        ("lora.alpha=3", "did you mean 'lora_alpha'?"),
    ],
)
def test_a_bad_override_is_named(written, override, part):
    (problem,) = problems(written, "task: sft", override)
    assert override.split("=")[0] in problem
    assert part in problem


def test_a_key_given_twice_is_refused(written):
    (problem,) = problems(written, "task: sft\nlora:\n  r: 4\n  lora_alpha: 2\n  r: 8\n")
    assert problem == "r: given twice in the mapping that starts at line 3"


def test_a_merge_key_is_read(written):
    recipe = load_recipe(written("train: &t {a: 1, b: 2}\nlora: {r: 4}\n"))
    assert recipe.train == {"a": 1, "b": 2}
    merged = load_recipe(written("train:\n  x: &t {a: 1, b: 2}\n  y: {<<: *t, b: 3}\n"))
    assert merged.train["y"] == {"a": 1, "b": 3}


def grown(levels, width=9):
    """Lists of lists by aliases: ``width ** levels`` values of the text "lol"."""
    lines = [f"a: &a [{', '.join(['lol'] * width)}]"]
    for here, below in zip("bcdefghi"[: levels - 1], "abcdefgh", strict=False):
        lines.append(f"{here}: &{here} [{', '.join([f'*{below}'] * width)}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (grown(7), "needs at most 2097152 bytes, 16 more a value"),  # 42 MB as JSON
        (grown(9), "needs at most 2097152 bytes, 16 more a value"),
        ("a: &a " + "x" * 10**5 + "\nb: [" + "*a, " * 30 + "]", "needs at most 2097152 bytes"),
        ("train: &t {a: *t}", "the alias 't' stands inside what it names"),
        ("train: {a: *t}", "undefined alias 't'"),
        ("train: " + "[" * 5000, "at most 32 deep"),
        ("train: " + "{a: " * 5000, "at most 32 deep"),
        pytest.param(
            "train: [" + "1," * 300_000 + "]",
            "needs at most 2097152 bytes",
            marks=pytest.mark.slow,  # 5 to 12 s: PyYAML's own pace
        ),
        ("x" * (2**21 + 1), "needs at most 2097152 bytes"),
        ("train: {a: 2001-13-45}", "month must be in 1..12"),
        ("train: {a: " + "9" * 5000 + "}", "4300 digits"),
    ],
    ids=range(11),
)
def test_what_grows_out_of_bounds_is_refused_before_it_does(written, text, part):
    path = written(text)
    if "&" in text:
        tracemalloc.start()
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    (problem,) = caught.value.problems
    assert str(path) in problem
    assert part in problem
    assert peak < 1e7


def test_aliases_that_stay_small_are_read_and_written_out(written):
    text = "train: {a: &a [1, 2], b: *a, c: &c [3], d: *c}\n"
    recipe = load_recipe(written(text))
    assert recipe.train == {"a": [1, 2], "b": [1, 2], "c": [3], "d": [3]}
    assert "&" not in to_yaml(recipe)


def test_an_override_is_held_to_the_same_bounds(written):
    bomb = "{" + grown(7).replace("\n", ", ") + "}"
    (problem,) = problems(written, "task: sft", f"train.x={bomb}")
    assert "needs at most 2097152 bytes" in problem
    assert len(problem) < 2000


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("lora: {r: 8", "not readable as YAML"),
        ("? [a]\n: 1", "not readable as YAML"),
        ("lora: !!python/object:os.system {}", "not readable as YAML"),
        ("", "needs a mapping of sections; got NoneType"),
        ("- task", "needs a mapping of sections; got list"),
    ],
)
def test_what_is_no_recipe_is_refused(written, text, part):
    assert part in problems(written, text)[0]


def test_what_is_no_text_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RecipeError, match="not readable as YAML"):
        load_recipe(str(path))


def test_what_is_no_json_is_refused():
    with pytest.raises(RecipeError, match=r"^invalid JSON"):
        parse_recipe("{")

"""Every command, file, folder and first example that the README names is there.

Not proven here: the numbers in its tables; the command beside each prints them.
"""

import re
from pathlib import Path

import pytest
import torch
from typer.main import get_command

import attacks
import attacks.updates
from aggregators import AGGREGATORS, MIXINGS, aggregate
from fedtune.cli import app
from fedtune.listing import rows_of
from fedtune.recipe import RecipeError, parse_recipe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [README, *(page.read_text(encoding="utf-8") for page in sorted(ROOT.glob("docs/*.md")))]


def blocks(page, language):
    found = re.findall(r"^```(\w*)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    return [body for named, body in found if named == language]


def test_the_first_python_example_runs():
    scope = {}
    exec(blocks(README, "python")[0], scope)
    assert scope["robust"].shape == (1000,)


def test_the_recipe_for_ones_own_data_runs(tiny_model_folder, tmp_path, monkeypatch):
    """As it stands, on a chat model in the hub's format, but for its length."""
    import json

    from fedtune import api

    (text,) = blocks(README, "yaml")
    assert len(text.splitlines()) <= 16
    (tmp_path / "chats.yaml").write_text(text)
    turns = [{"role": "user", "content": "add 3 4"}, {"role": "assistant", "content": "7"}]
    rows = [{"messages": turns, "organisation": "abcd"[k % 4]} for k in range(48)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    result = api.run(
        "chats.yaml",
        model={"name_or_path": str(tiny_model_folder("llama"))},
        federation={"num_rounds": 1, "local_steps": 1},
    )
    assert result.adapter.is_dir()
    assert result.folder == tmp_path / "runs" / "chats"


@pytest.fixture
def added(monkeypatch):
    """The attack and the rule of docs/adding.md, added as the page says; gone after the test."""
    attack, rule, _, both = blocks((ROOT / "docs" / "adding.md").read_text(), "python")
    for known, name in ((attacks.ATTACKS, "half_hearted"), (AGGREGATORS, "closest")):
        monkeypatch.setitem(known, name, None)  # remembers that it was not there
        del known[name]
    exec(attack, {})
    exec(rule, {})
    return both


def test_an_added_attack_and_rule_are_known_everywhere(added, capsys):
    exec(added, {})
    assert capsys.readouterr().out.strip() == "torch.Size([1000])"
    recipe = {
        "aggregator": {"name": "closest", "f": 3, "geometry": "product"},
        "attack": {"name": "half_hearted", "num_attackers": 3, "share": 0.2},
    }
    assert parse_recipe(recipe).aggregator.plan().last.rule.name == "closest"
    with pytest.raises(RecipeError, match=r"half_hearted.share needs a finite float in \[0, 1\]"):
        parse_recipe({**recipe, "attack": {**recipe["attack"], "share": 2.0}})
    assert "half_hearted" in {name for name, _, _ in rows_of("attacks")}
    assert "closest" in {name for name, _, _ in rows_of("aggregators")}
    # by hand: of 0, 1, 2 and 9 the sums of squared distances are 86, 66, 54, 194; 9 goes
    rows = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert aggregate(rows, "closest", f=1).tolist() == [1.0]


@pytest.mark.parametrize("number", range(5))
def test_the_examples_for_another_loop_run(number):
    page = (ROOT / "docs" / "your-own-loop.md").read_text()
    examples = blocks(page, "python")
    assert len(examples) == 5
    exec(examples[number], {})


def test_the_page_of_rules_is_what_the_rules_say():
    from fedtune.listing import as_markdown, attacks_as_markdown

    page = (ROOT / "docs" / "aggregators.md").read_text(encoding="utf-8")
    assert page == as_markdown(), "run `make docs`"
    for name in (*AGGREGATORS, *MIXINGS):
        assert f"### {name}\n" in page
    page = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
    assert page == attacks_as_markdown(), "run `make docs`"
    for name in attacks.ATTACKS:
        assert f"### {name}\n" in page


def test_every_command_exists():
    known = set(get_command(app).commands)
    named = {name for page in PAGES for name in re.findall(r"^fedtune (\w+)", page, flags=re.M)}
    assert {"run", "check", "evaluate", "merge", "list"} <= named
    assert named <= known
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([\w-]+)", README, flags=re.M):
        assert f"\n{target}:" in makefile


def test_every_linked_file_exists():
    links = re.findall(r"\]\(([\w./-]+)\)", README)
    assert len(links) > 5
    for link in links:
        assert (ROOT / link).exists(), link


def test_every_named_benchmark_exists():
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / script).is_file(), script


def test_the_tree_is_the_tree():
    (tree,) = [block for block in blocks(README, "") if block.startswith("aggregators/")]
    above = [ROOT]
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above = [*above[: depth + 1], above[depth] / line.split()[0]]
        assert above[-1].exists(), above[-1]


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/*.md")), ids=lambda page: page.name)
def test_every_recipe_in_the_docs_is_valid(page):
    import yaml

    from fedtune.attack_bench.cells import lay_out
    from fedtune.attack_bench.schema import Bench
    from fedtune.recipe.stages import lay_out as lay_out_stages

    for block in blocks(page.read_text(encoding="utf-8"), "yaml"):
        raw = yaml.safe_load(block)
        if "defences" in raw:
            assert lay_out(Bench.model_validate(raw))
        elif "stages" in raw:
            assert lay_out_stages(raw).stages
        else:
            assert parse_recipe(raw).federation.num_clients > 0

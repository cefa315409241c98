"""Recipes in stages: what each stage's whole recipe is, what it starts from, and what is refused.

That they run: tests/fedtune/runs/test_pipeline.py.
"""

from pathlib import Path

import pytest
import yaml

from fedtune.recipe import RecipeError, load_recipe, parse_recipe
from fedtune.recipe.source import read_run_recipe, with_absolute_paths, with_folders
from fedtune.recipe.stages import (
    Pipeline,
    as_mapping,
    lay_out,
    load,
    moved,
    stages_to_yaml,
    with_recipes,
)

GRPO = {"name": "grpo", "task": "grpo", "rewards": [{"name": "reward_model", "adapter": "reward"}]}
SFT, REWARD, DPO = ({"name": task, "task": task} for task in ("sft", "reward", "dpo"))


def stages(*entries, **top):
    return lay_out({"output_dir": "runs/p", **top, "stages": list(entries)})


def refused(*entries, **top):
    with pytest.raises(RecipeError) as caught:
        stages(*entries, **top)
    return caught.value.problems


def starts(pipeline):
    return [(stage.name, stage.start, stage.origin) for stage in pipeline.stages]


def test_sft_then_a_reward_model_then_a_policy():
    # The policy goes on from the last causal LM, not from the reward model before it, and is held
    # against what it starts from; the reward model's name stands for its folder.
    found = stages(SFT, REWARD, GRPO)
    assert starts(found) == [
        ("sft", "fresh", None),
        ("reward", "adapter", "sft"),
        ("grpo", "adapter", "sft"),
    ]
    sft, reward, grpo = (stage.recipe for stage in found.stages)
    assert sft.initial_adapter is None
    assert reward.initial_adapter == grpo.initial_adapter == "runs/p/sft"
    assert (sft.reference, reward.reference, grpo.reference) == ("base", "base", "initial_adapter")
    assert grpo.rewards[0].adapter == "runs/p/reward"
    assert [str(each.output_dir) for each in (sft, reward, grpo)] == [
        "runs/p/sft", "runs/p/reward", "runs/p/grpo",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([REWARD, GRPO], [None, None]),  # nothing that writes came before
        ([REWARD, {**REWARD, "name": "second"}], [None, "reward"]),  # its head goes on too
        ([SFT, DPO, REWARD], [None, "sft", "dpo"]),
        ([SFT, REWARD, {**DPO, "from": "sft"}, {**GRPO, "start": "fresh"}],
         [None, "sft", "sft", None]),
        ([SFT, DPO, {**REWARD, "from": "sft"}], [None, "sft", "sft"]),
    ],
)  # fmt: skip
def test_what_a_stage_starts_from_unless_it_says(entries, expected):
    assert [origin for _, _, origin in starts(stages(*entries))] == expected


def test_a_merged_start_is_another_base_for_all_that_follows_it():
    model = {"name_or_path": "m", "revision": "r"}
    merged, last = {**DPO, "start": "merge"}, {"name": "last", "task": "sft"}
    found = stages(SFT, merged, REWARD, last, model=model)
    models = [stage.recipe.model for stage in found.stages]
    assert [model.name_or_path for model in models] == ["m", *["runs/p/sft/merged"] * 3]
    assert [model.revision for model in models] == ["r", None, None, None]
    dpo = found.stage("dpo").recipe
    assert (dpo.initial_adapter, dpo.reference) == (None, "base")  # the base is the merged model
    assert found.stage("last").recipe.initial_adapter == "runs/p/dpo"


def test_mappings_merge_one_level_deep_and_some_sections_are_whole():
    top = {
        "federation": {"num_clients": 4, "num_rounds": 9},
        "data": {"source": "a.jsonl", "partition": {"by": "size", "min_rows": 3}},
        "train": {"learning_rate": 1e-3, "max_length": 64},
        "aggregator": {"name": "krum", "f": 0},
        "attack": {"name": "ipm", "num_attackers": 1},
    }
    own = {
        "federation": {"num_rounds": 2},
        "data": {"partition": {"by": "iid"}},
        "train": {"beta": 0.2},
        "aggregator": {"name": "mean"},
        "attack": None,
    }
    sft, dpo = (stage.recipe for stage in stages(SFT, {**DPO, **own}, **top).stages)
    assert (sft.federation.num_rounds, sft.train["max_length"], sft.attack.name) == (9, 64, "ipm")
    assert (dpo.federation.num_clients, dpo.federation.num_rounds) == (4, 2)
    assert (dpo.data.source, dpo.data.partition.min_rows) == ("a.jsonl", 16)
    assert dpo.train == {"beta": 0.2}
    assert (dpo.aggregator.name, dpo.aggregator.f, dpo.attack) == ("mean", 0, None)


def test_what_is_of_some_tasks_alone_is_left_to_those():
    top = {"rewards": [{"name": "length"}], "reference": "base", "initial_adapter": "runs/old"}
    found = stages(SFT, REWARD, {"name": "grpo", "task": "grpo"}, **top)
    sft, reward, grpo = (stage.recipe for stage in found.stages)
    assert [len(each.rewards) for each in (sft, reward, grpo)] == [0, 0, 1]
    assert grpo.reference == "base"  # it says so, and is not held against what it starts from
    assert (sft.initial_adapter, reward.initial_adapter) == ("runs/old", "runs/p/sft")


@pytest.mark.parametrize(
    ("top", "told"),
    [
        ({"rewards": [{"name": "length"}]}, "rewards: no stage takes them"),
        ({"reference": "base"}, "reference: no stage takes it"),
    ],
)
def test_what_no_stage_takes_is_not_dropped_in_silence(top, told):
    (problem,) = refused(SFT, REWARD, **top)
    assert problem.startswith(told)


def test_a_reference_may_be_a_stage():
    found = stages(SFT, DPO, {**DPO, "name": "again", "reference": "sft"})
    assert found.stage("again").recipe.initial_adapter == "runs/p/dpo"
    assert found.stage("again").recipe.reference == "runs/p/sft"


def test_a_pipeline_is_read_back_whole_and_moves():
    found = stages(
        SFT, {**REWARD, "start": "merge"}, GRPO, {**DPO, "start": "merge", "from": "grpo"},
        {**DPO, "name": "again", "reference": "dpo", "attack": {"name": "ipm", "num_attackers": 1}},
    )  # fmt: skip
    assert lay_out(as_mapping(found)) == found
    assert lay_out(yaml.safe_load(stages_to_yaml(found))) == found
    elsewhere = moved(found, Path("/other/place"))
    assert elsewhere.stage("grpo").recipe.rewards[0].adapter == "/other/place/reward"
    assert elsewhere.stage("dpo").recipe.model.name_or_path == "/other/place/grpo/merged"
    assert moved(elsewhere, found.output_dir) == found
    assert "runs/p/" not in stages_to_yaml(found)  # stages call each other by name


def test_paths_become_absolute_and_stages_stay_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine").mkdir()
    rewards = [*GRPO["rewards"], {"name": "reward_model", "adapter": "mine"}]
    found = stages({**SFT, "initial_adapter": "mine"}, REWARD, {**GRPO, "rewards": rewards})
    found = with_recipes(moved(found, tmp_path / "p"), with_absolute_paths)
    here = str(tmp_path / "mine")
    assert found.stage("sft").recipe.initial_adapter == here
    assert [each.adapter for each in found.stage("grpo").recipe.rewards] == [
        str(tmp_path / "p" / "reward"), here,
    ]  # fmt: skip
    assert [each["adapter"] for each in as_mapping(found)["stages"][2]["rewards"]] == [
        "reward", here,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"federation": {"num_round": 2}}, "stages.dpo: federation.num_round: unknown key; did you "
         "mean 'num_rounds'?"),
        ({"federaton": {}}, "stages.dpo: federaton: unknown key; did you mean 'federation'?"),
        ({"strat": "merge"}, "stages.dpo: strat: unknown key; did you mean 'start'?"),
        ({"start": "merged"}, "stages.dpo: start: needs another word than 'merged'; did you mean "
         "'merge'?"),
        ({"from": "stf"}, "stages.dpo: from: no earlier stage 'stf'; did you mean 'sft'?"),
        ({"from": "dpo"}, "stages.dpo: from: no earlier stage 'dpo'"),
        ({"from": "reward"}, "stages.dpo: from: reward is a reward model, which is no causal LM"),
        ({"start": "fresh", "from": "sft"}, "stages.dpo: from: start: fresh has no use for"),
        ({"output_dir": "x"}, "stages.dpo: output_dir: it is of all stages"),
        ({"initial_adapter": "x"}, "stages.dpo: initial_adapter: the stage starts from sft: got"),
        ({"model": {"name_or_path": "x"}}, "stages.dpo: model.name_or_path: the stage starts from "
         "sft, on nano: got 'x'"),
        ({"model": "x"}, "stages.dpo: model: "),
        ({"lora": {"r": 4}}, "stages.dpo: lora.r: start: adapter takes sft's adapter, which has 8: "
         "got 4; write the same, or start: merge"),
        ({"lora": {"lora_alpha": 4}}, "stages.dpo: lora.lora_alpha: start: adapter takes sft's"),
        ({"reference": "last"}, "stages.dpo: reference: needs a stage that comes before this one"),
        ({"start": "merge", "reference": "sft"}, "stages.dpo: reference: needs an adapter on the "
         "same base, runs/p/sft/merged: got sft's, on nano"),
        ({"task": "grpo", "rewards": [{"name": "reward_model", "adapter": "sft"}]},
         "stages.dpo: rewards.reward_model.adapter: needs a stage of task reward: got sft; name "
         "reward or last"),
        ({"task": "grpo", "rewards": [{"name": "reward_model", "adapter": "last"}]},
         "stages.dpo: rewards.reward_model.adapter: needs a stage that comes before this one"),
        ({"name": "Dpo"}, "stages: number 3 needs a name of small letters"),
        ({"name": "adapter"}, "stages: number 3 needs a name of small letters"),
        ({"name": "sft"}, "stages: the name 'sft' is given twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_stages_name(entry, told):
    (problem,) = refused(
        SFT, REWARD, {**DPO, **entry}, {**REWARD, "name": "last", "start": "fresh"}
    )
    assert problem.startswith(told)


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({**REWARD, "start": "merge", "from": "reward"}, "from: reward is a reward model, which is "
         "merged into no base"),
        ({**REWARD, "start": "merge"}, "start: merge needs an earlier stage to start from"),
        ({**DPO, "from": "sft"}, "from: no earlier stage 'sft'"),
    ],
)  # fmt: skip
def test_a_reward_model_is_no_start_for_what_writes(entry, told):
    (problem,) = refused(REWARD, {**entry, "name": "second"})
    assert problem.startswith(f"stages.second: {told}")


def test_what_all_stages_share_is_told_once():
    assert refused(SFT, REWARD, DPO, federaton={})[0].startswith("federaton: unknown key")
    assert len(refused(SFT, REWARD, DPO, federaton={})) == 1
    assert len(refused(SFT, {**REWARD, "federaton": {}}, DPO)) == 1


@pytest.mark.parametrize("given", [3, [], None, ["sft"], [{"task": "sft"}]])
def test_stages_are_a_list_of_mappings_with_names(given):
    with pytest.raises(RecipeError, match="stages: "):
        lay_out({"stages": given})


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "stages.yaml"
    entries = [{**SFT, "lora": {"r": 4}}, REWARD, {**DPO, "train": {"beta": 0.3}}]
    top = {"train": {"learning_rate": 1e-3}, "lora": {"r": 4}}
    path.write_text(yaml.safe_dump({**top, "stages": entries}))
    return str(path)


def test_overrides_reach_all_stages_or_one(written):
    overrides = ["federation.num_rounds=3", "stages.dpo.federation.num_rounds=5",
                 "stages.reward.train.learning_rate=2e-3", "stages.dpo.train.max_length=32",
                 "stages.dpo.attack={name: ipm, num_attackers: 1}"]  # fmt: skip
    found = load(written, overrides)
    assert [stage.recipe.federation.num_rounds for stage in found.stages] == [3, 3, 5]
    # One key of a section that is whole: the section of all is taken along, or the stage's own.
    assert [stage.recipe.train for stage in found.stages] == [
        {"learning_rate": 1e-3}, {"learning_rate": 2e-3}, {"beta": 0.3, "max_length": 32},
    ]  # fmt: skip
    assert [stage.recipe.attack is None for stage in found.stages] == [True, True, False]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.dpp.train.beta=1", "no stage 'dpp'; did you mean 'dpo'?"),
        ("stages.dpo={}", "needs the form stages.dpo.section.key=value"),
        ("stages.dpo.train", "needs the form section.key=value"),
    ],
)
def test_overrides_that_reach_no_stage(written, override, told):
    with pytest.raises(RecipeError) as caught:
        load(written, [override])
    assert told in str(caught.value)


def test_a_recipe_without_stages_is_a_recipe_and_stages_are_none(written):
    assert load("quickstart") == load_recipe("quickstart")
    assert isinstance(load(written), Pipeline)
    with pytest.raises(RecipeError, match="stages: needs one recipe here: got several"):
        load_recipe(written)
    with pytest.raises(RecipeError, match="stages: needed"):
        lay_out({})


def test_a_runs_recipe_finds_what_was_moved_along_with_it(tmp_path):
    for name in ("old", "new"):
        (tmp_path / name / "dpo").mkdir(parents=True)
    (tmp_path / "new" / "sft" / "merged").mkdir(parents=True)
    old = tmp_path / "old"
    raw = {
        "task": "dpo",
        "model": {"name_or_path": str(old / "sft" / "merged")},
        "reference": str(old / "sft"),
        "initial_adapter": str(tmp_path / "elsewhere"),
        "output_dir": str(old / "dpo"),
    }
    (tmp_path / "new" / "dpo" / "recipe.yaml").write_text(yaml.safe_dump(raw))
    found = read_run_recipe(tmp_path / "new" / "dpo")
    assert found.model.name_or_path == str(tmp_path / "new" / "sft" / "merged")
    assert found.reference == str(tmp_path / "new" / "sft")
    assert found.initial_adapter == str(tmp_path / "elsewhere")
    assert found.output_dir == tmp_path / "new" / "dpo"


def test_every_folder_that_a_recipe_names_can_be_put_elsewhere():
    raw = {
        "task": "grpo", "model": {"name_or_path": "m"}, "initial_adapter": "i", "reference": "r",
        "rewards": [{"name": "length"}, {"name": "reward_model", "adapter": "w"}],
    }  # fmt: skip
    found = with_folders(parse_recipe(raw), str.upper)
    assert (found.model.name_or_path, found.initial_adapter, found.reference) == ("M", "I", "R")
    assert [each.name for each in found.rewards] == ["length", "reward_model"]
    assert found.rewards[1].adapter == "W"
    plain = with_folders(parse_recipe({}), str.upper)
    assert plain == parse_recipe({})  # nano and base are no folders

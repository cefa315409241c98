"""Stages in one folder: what each starts from, what each leaves, and what is refused.

That a kill changes no bit: test_pipeline_resumes.py.
"""

import json
from contextlib import nullcontext

import pytest
import torch
import yaml
from left_by_a_run import adapter_bytes, eval_records
from safetensors.torch import load_file, save_file
from staged_runs import DPO, GRPO, REWARD, SFT

from fedtune.recipe.stages import load
from fedtune.records.events import RunStoppedError, ignore
from fedtune.records.folder import RunFolder, holds_stages
from fedtune.report.pages.writing import write_pages
from fedtune.runs.adapter_of import find_adapter
from fedtune.runs.checks.of_stages import find_stage_problems, find_stage_risks
from fedtune.runs.pipeline import PipelineFolder, execute_stages
from fedtune.training.heldout import measure_adapter
from fedtune.training.merge import merge_adapter
from fedtune.training.process import drop_workers


@pytest.fixture
def run_all():
    """Return a function: run stages in a new folder, in this process."""

    def start(pipeline):
        folder, pipeline = PipelineFolder.create(pipeline)
        execute_stages(pipeline, folder)
        return folder, pipeline

    return start


def losses(folder, stage):
    return [line["eval"]["loss"] for line in RunFolder(folder.path / stage).read_metrics()]


def tensors(folder, stage):
    return load_file(folder.path / stage / "adapter" / "adapter_model.safetensors")


def first_anchor(folder, stage):
    """What round 1 of a stage started from; checkpoint.keep must have left it."""
    state = folder.path / stage / "checkpoints" / "round-0000" / "state.safetensors"
    return load_file(state)["anchor"]


def row(found):
    return torch.cat([found[name].reshape(-1) for name in sorted(found)])


def test_each_stage_goes_on_from_the_adapter_it_names(tiny_stages, run_all):
    folder, pipeline = run_all(tiny_stages(SFT, REWARD, GRPO, checkpoint={"keep": 9}))
    sft, reward = tensors(folder, "sft"), tensors(folder, "reward")
    assert torch.equal(first_anchor(folder, "grpo"), row(sft))
    # The reward model takes the same adapter, and has a head of its own beside it.
    (head,) = set(reward) - set(sft)
    assert head.endswith("score.weight")
    begun = first_anchor(folder, "reward")
    assert begun.numel() == row(sft).numel() + reward[head].numel()
    assert torch.equal(begun[: row(sft).numel()], row(sft))
    assert all(losses(folder, name)[0] != losses(folder, name)[-1] for name in ("sft", "reward"))
    assert not (folder.path / "adapter").exists()
    assert json.loads(folder.state.read_text()) == {
        "stages": {"sft": "done", "reward": "done", "grpo": "done"}
    }
    _, again = PipelineFolder.open(folder.path)
    assert again == pipeline


def test_a_stage_is_the_run_of_its_recipe_alone(tiny_stages, run_all, run, tmp_path):
    folder, pipeline = run_all(tiny_stages(SFT, DPO))
    recipe = pipeline.stage("dpo").recipe
    alone = run(recipe.model_copy(update={"output_dir": tmp_path / "alone"}))
    staged = RunFolder(folder.path / "dpo")
    assert adapter_bytes(alone) == adapter_bytes(staged)
    assert eval_records(alone) == eval_records(staged)
    # The reference is what it started from, so that margins begin at zero.
    first = staged.read_metrics()[0]["eval"]
    assert first["rewards/margins"] == pytest.approx(0, abs=1e-5)


def test_a_merged_start_is_the_model_that_the_stage_before_ended_with(tiny_stages, run_all):
    second = {"name": "second", "task": "sft", "start": "merge"}
    folder, pipeline = run_all(tiny_stages(SFT, second, {**DPO, "from": "second"}))
    merged = folder.path / "sft" / "merged"
    assert pipeline.stage("second").recipe.model.name_or_path == str(merged)
    assert losses(folder, "second")[0] == pytest.approx(losses(folder, "sft")[-1], abs=1e-5)
    config = json.loads((folder.path / "dpo" / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(merged)
    assert torch.equal(first := row(tensors(folder, "second")), first)
    assert not (folder.path / "second" / "merged").exists()  # nobody starts from it so


def test_a_stages_folder_is_a_runs_and_may_be_moved(tiny_stages, run_all, tmp_path):
    folder, _ = run_all(tiny_stages(SFT, {**REWARD, "start": "merge"}, GRPO))
    moved = folder.path.rename(tmp_path / "elsewhere")
    for name in ("sft", "reward", "grpo"):
        found = find_adapter(moved / name)
        recorded = RunFolder(moved / name).read_metrics()[-1]["eval"]
        measured = measure_adapter(found.folder, found.recipe).adapter.as_dict()
        assert measured == pytest.approx(recorded, abs=1e-9)
    found = find_adapter(moved / "grpo")
    merge_adapter(found.folder, found.recipe.model, tmp_path / "model")
    assert (tmp_path / "model" / "config.json").is_file()
    with pytest.raises(
        FileNotFoundError, match=r"several stages: name the folder of one, .*/STAGE"
    ):
        find_adapter(moved)
    again, pipeline = PipelineFolder.open(moved)
    execute_stages(pipeline, again)  # all done, wherever it lies: nothing is refused


def test_a_folder_of_stages_is_never_overwritten(tiny_stages):
    pipeline = tiny_stages(SFT, REWARD, GRPO)
    first, _ = PipelineFolder.create(pipeline)
    second, bound = PipelineFolder.create(pipeline)
    assert second.path.name == f"{first.path.name}-2"
    assert bound.stage("grpo").recipe.rewards[1].adapter == str(second.path / "reward")
    assert holds_stages(second.path)
    assert not holds_stages(second.path / "sft")
    with pytest.raises(FileNotFoundError, match="holds no stages: it needs"):
        PipelineFolder.open(second.path / "sft")


def change(path, *keys, to):
    raw = yaml.safe_load(path.read_text())
    stage = next(each for each in raw["stages"] if each["name"] == keys[0])
    for key in keys[1:-1]:
        stage = stage[key]
    stage[keys[-1]] = to
    path.write_text(yaml.safe_dump(raw, sort_keys=False))


def test_a_stage_that_is_done_keeps_its_recipe_and_one_to_come_may_change(tiny_stages, run_all):
    folder, _ = run_all(tiny_stages(SFT, DPO))
    state = folder.state.read_text().replace('"dpo": "done"', '"dpo": "to do"')
    folder.state.write_text(state)
    change(folder.recipe, "sft", "train", "learning_rate", to=0.5)
    _, pipeline = PipelineFolder.open(folder.path)
    with pytest.raises(ValueError, match="sft: the recipe is no longer the one that this stage"):
        execute_stages(pipeline, folder)
    change(folder.recipe, "sft", "train", "learning_rate", to=1e-2)
    change(folder.recipe, "dpo", "train", "learning_rate", to=0.5)  # begun, and as it began
    _, pipeline = PipelineFolder.open(folder.path)
    with pytest.raises(RunStoppedError, match="stage dpo: the recipe is no longer the one"):
        execute_stages(pipeline, folder)


def test_a_stage_that_goes_on_must_find_what_it_started_from(tiny_stages, run_all):
    folder, pipeline = run_all(tiny_stages(SFT, DPO))
    folder.state.write_text(folder.state.read_text().replace('"dpo": "done"', '"dpo": "to do"'))
    weights = folder.path / "sft" / "adapter" / "adapter_model.safetensors"
    save_file({name: 2 * each for name, each in load_file(weights).items()}, weights)
    drop_workers()
    with pytest.raises(RunStoppedError, match="stage dpo: the base is no longer the one"):
        execute_stages(pipeline, folder)


def test_a_begun_stage_goes_on_wherever_all_are_moved(tiny_stages, run_all, tmp_path):
    folder, _ = run_all(tiny_stages(SFT, {**DPO, "start": "merge"}))
    before = adapter_bytes(RunFolder(folder.path / "dpo"))
    folder.state.write_text(folder.state.read_text().replace('"dpo": "done"', '"dpo": "to do"'))
    (folder.path / "dpo" / "checkpoints" / "round-0002" / "state.json").unlink()
    moved, pipeline = PipelineFolder.open(folder.path.rename(tmp_path / "elsewhere"))
    execute_stages(pipeline, moved)
    assert adapter_bytes(RunFolder(moved.path / "dpo")) == before


def test_a_damaged_list_of_stages_says_what_to_do_and_that_costs_no_bit(tiny_stages, run_all):
    folder, pipeline = run_all(tiny_stages(SFT, {**DPO, "start": "merge"}))
    before = [adapter_bytes(RunFolder(folder.path / name)) for name in ("sft", "dpo")]
    folder.state.write_text("{")
    with pytest.raises(ValueError, match=r'is damaged .*: write \{"stages": \{\}\} into it'):
        execute_stages(pipeline, folder)
    folder.state.write_text('{"stages": {}}')
    execute_stages(pipeline, folder)
    assert [adapter_bytes(RunFolder(folder.path / name)) for name in ("sft", "dpo")] == before
    assert folder.done() == ["sft", "dpo"]


def test_two_processes_do_not_run_in_one_folder(tiny_stages):
    folder, pipeline = PipelineFolder.create(tiny_stages(SFT))
    with RunFolder(folder.path).locked(), pytest.raises(ValueError, match="another process is"):
        execute_stages(pipeline, folder)


def test_a_stage_that_cannot_go_on_is_named(tiny_stages):
    attack = {"name": "nan", "num_attackers": 2}
    entries = (SFT, {**DPO, "attack": attack})
    folder, pipeline = PipelineFolder.create(tiny_stages(*entries))
    watched = []
    with pytest.raises(RunStoppedError, match="stage dpo: round 1 got too few good replies"):
        execute_stages(
            pipeline, folder, lambda stage: watched.append(stage.name) or nullcontext(ignore)
        )
    assert watched == ["sft", "dpo"]
    assert folder.done() == ["sft"]


def test_check_misses_nothing_that_a_stage_will_leave(tiny_stages):
    merged = {**REWARD, "start": "merge"}
    dpo = {**DPO, "start": "merge", "from": "grpo"}
    pipeline = tiny_stages(SFT, merged, GRPO, dpo, {**DPO, "name": "last", "from": "dpo"})
    assert find_stage_problems(pipeline) == []
    assert find_stage_risks(pipeline) == [
        "the mean withstands no attacker; name a robust rule where one may come"
    ]


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"train": {"bta": 0.1}}, "stages.dpo: train.bta: unknown to TRL; did you mean 'beta'?"),
        ({"train": {"max_steps": 1}}, "stages.dpo: train.max_steps: fedtune sets it"),
        ({"reference": "./none"}, "stages.dpo: reference: no adapter at ./none; looked in"),
        ({**GRPO, "name": "dpo", "rewards": [{"name": "reward_model", "adapter": "rewad"}]},
         "stages.dpo: rewards.reward_model.adapter: no adapter at rewad"),
        ({"data": {"source": "none.jsonl"}}, "stages.dpo: data.source: no file none.jsonl"),
        ({"attack": {"name": "label_noise", "num_attackers": 1}}, "stages.dpo: attack: label_noi"),
    ],
)  # fmt: skip
def test_check_tells_what_is_wrong_before_any_stage_runs(tiny_stages, entry, told):
    (problem,) = find_stage_problems(tiny_stages(SFT, REWARD, {**DPO, **entry}))
    assert problem.startswith(told)


def test_a_misspelt_stage_of_a_reward_is_told_with_the_nearest(tiny_stages):
    asked = {**GRPO["rewards"][1], "adapter": "rewrad"}
    pipeline = tiny_stages(SFT, REWARD, {**GRPO, "rewards": [asked]})
    (problem,) = find_stage_problems(pipeline)
    assert problem.endswith("did you mean 'reward'?")


def test_a_report_is_a_page_for_each_stage_that_has_begun(tiny_stages, run_all):
    folder, _ = run_all(tiny_stages(SFT, REWARD))
    pages = write_pages(folder.path)
    assert pages == [folder.path / name / "report.html" for name in ("sft", "reward")]
    assert all(page.read_text().startswith("<!doctype html>") for page in pages)
    fresh, _ = PipelineFolder.create(tiny_stages(SFT, REWARD))
    with pytest.raises(FileNotFoundError, match="none in"):
        write_pages(fresh.path)


def test_nothing_is_known_to_be_wrong_with_the_shipped_stages():
    pipeline = load("pipeline_nano")
    assert [stage.recipe.task for stage in pipeline.stages] == ["sft", "reward", "grpo"]
    assert find_stage_problems(pipeline) == []


def test_check_tells_once_what_is_wrong_with_all(tiny_stages):
    (problem,) = find_stage_problems(tiny_stages(SFT, REWARD, data={"source": "none.jsonl"}))
    assert problem.startswith("data.source: no file")

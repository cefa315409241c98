"""A reward model as a reward: what it says of a text is what its own run measured.

Not proven here: bfloat16 and devices other than the CPU.
"""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from staged_runs import GRPO, REWARD, SFT

from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.runs.pipeline import PipelineFolder, execute_stages
from fedtune.training.merge import merge_adapter
from fedtune.training.process import drop_workers, get_worker
from fedtune.training.reward_model import load_reward_model
from fedtune.training.starting import price


@pytest.fixture
def policy(tiny_stages, tmp_path):
    """The recipe of a policy whose second reward is a reward model that was trained on sft's."""
    folder, pipeline = PipelineFolder.create(tiny_stages(SFT, REWARD, GRPO))
    one = pipeline.model_copy(update={"stages": pipeline.stages[:2]})
    execute_stages(one, folder)
    return pipeline.stage("grpo").recipe


def reward_folder(policy):
    return RunFolder.open(policy.output_dir.parent / "reward")[0]


def asked_of(row, which):
    return (row["prompt"], row[which], row)


def test_it_says_what_the_run_of_the_reward_model_measured(policy):
    folder = reward_folder(policy)
    recipe = RunFolder.open(folder.path)[1]
    worker = get_worker(recipe.model_dump_json())
    rows = worker.data.rows.select(worker.data.split.test[: recipe.evaluation.max_rows]).to_list()
    model = load_reward_model(policy, policy.rewards[1])
    chosen = model.rewards([asked_of(row, "chosen") for row in rows])
    rejected = model.rewards([asked_of(row, "rejected") for row in rows])
    measured = folder.read_metrics()[-1]["eval"]
    assert measured["num_pairs"] == len(rows) == 4
    assert sum(chosen + rejected) / 8 == pytest.approx(measured["mean_reward"], abs=1e-6)
    wins = [good > bad for good, bad in zip(chosen, rejected, strict=True)]
    assert sum(wins) / 4 == measured["accuracy"]
    gaps = [good - bad for good, bad in zip(chosen, rejected, strict=True)]
    assert sum(gaps) / 4 == pytest.approx(measured["margin"], abs=1e-6)


def test_a_score_is_the_sigmoid_of_the_reward_alone_or_among_many(policy):
    model = load_reward_model(policy, policy.rewards[1])
    asked = [("add 1 2: ", "3" * length, {}) for length in (1, 40, 0, 7) * 12]  # two batches
    rewards, scores = model.rewards(asked), model.score_all(asked)
    assert scores == [pytest.approx(1 / (1 + math.exp(-reward))) for reward in rewards]
    assert scores == pytest.approx([model.score(*each) for each in asked], abs=1e-6)
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) >= 4


def test_the_head_is_asked_and_nothing_learns(policy):
    model = load_reward_model(policy, policy.rewards[1])
    before = model.rewards([("a", "b", {})])
    assert not any(parameter.requires_grad for parameter in model.model.parameters())
    assert not model.model.training
    with torch.no_grad():
        (head,) = [
            parameter
            for name, parameter in model.model.named_parameters()
            if "modules_to_save" in name and "score" in name
        ]
        head.neg_()
        assert model.rewards([("a", "b", {})]) == pytest.approx([-each for each in before])
        head.neg_()


def test_a_conversation_goes_through_the_chat_template(policy):
    model = load_reward_model(policy, policy.rewards[1])
    said = [{"role": "user", "content": "add 1 2"}]
    # What TRL makes of the pair: the template over the prompt and the answer, no prompt for more.
    whole = "<|user|>add 1 2<|end|><|assistant|>3<|end|>"
    assert model._tokenise("add 1 2", "3", {"prompt": said}) == model.tokenizer(whole)["input_ids"]
    assert model._tokenise("a", "b", {"prompt": "a"}) == model.tokenizer("ab<|end|>")["input_ids"]
    assert model._tokenise("a", "b<|end|>", {}) == model.tokenizer("ab<|end|>")["input_ids"]


def test_it_is_loaded_once_a_process_and_anew_when_it_has_changed(policy):
    model = load_reward_model(policy, policy.rewards[1])
    assert load_reward_model(policy, policy.rewards[1]) is model
    first, second = price(policy)
    assert (first.digest, second.digest) == ("", model.digest)
    assert second.batch is not None
    weights = reward_folder(policy).adapter / "adapter_model.safetensors"
    save_file({name: 2 * each for name, each in load_file(weights).items()}, weights)
    changed = load_reward_model(policy, policy.rewards[1])
    assert changed.digest != model.digest
    assert changed.rewards([("a", "b", {})]) != model.rewards([("a", "b", {})])


def test_a_resumed_policy_must_find_the_reward_model_as_it_was(policy):
    _, pipeline = PipelineFolder.open(policy.output_dir.parent)
    execute_stages(pipeline, PipelineFolder(policy.output_dir.parent))
    weights = reward_folder(policy).adapter / "adapter_model.safetensors"
    save_file({name: 2 * each for name, each in load_file(weights).items()}, weights)
    drop_workers()  # as in another process
    state = PipelineFolder(policy.output_dir.parent).state
    state.write_text(state.read_text().replace('"grpo": "done"', '"grpo": "to do"'))
    with pytest.raises(RunStoppedError, match="stage grpo: the base is no longer the one"):
        execute_stages(pipeline, PipelineFolder(policy.output_dir.parent))


def with_adapter(policy, path):
    rewards = [policy.rewards[1].model_copy(update={"adapter": str(path)})]
    return policy.model_copy(update={"rewards": rewards}), rewards[0]


def test_an_adapter_alone_sits_on_the_policys_own_base(policy, tmp_path):
    staged = load_reward_model(policy, policy.rewards[1])
    alone = shutil.copytree(reward_folder(policy).adapter, tmp_path / "alone")
    found = load_reward_model(*with_adapter(policy, alone))
    assert found.rewards([("a", "b", {})]) == staged.rewards([("a", "b", {})])


def test_merged_it_is_a_classifier_that_says_the_same(policy, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = load_reward_model(policy, policy.rewards[1])
    folder = reward_folder(policy)
    merge_adapter(folder.adapter, RunFolder.open(folder.path)[1].model, tmp_path / "merged")
    merged = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    asked = ("add 1 2: ", "3", {})
    with torch.no_grad():
        reward = merged(torch.tensor([model._tokenise(*asked)])).logits[0]
    assert reward.tolist() == pytest.approx(model.rewards([asked]), abs=1e-6)


def test_what_is_no_reward_model_is_refused(policy, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"reward_model.adapter: no adapter at /nowhere"):
        load_reward_model(*with_adapter(policy, "/nowhere"))
    writer = policy.output_dir.parent / "sft"
    with pytest.raises(ValueError, match=r"adapter of a run of task reward: got .*CAUSAL"):
        load_reward_model(*with_adapter(policy, writer))
    headless = shutil.copytree(reward_folder(policy).adapter, tmp_path / "headless")
    weights = headless / "adapter_model.safetensors"
    kept = {name: each for name, each in load_file(weights).items() if "score" not in name}
    save_file(kept, weights)
    with pytest.raises(ValueError, match=r"headless does not fit its base: .* lacks .*score"):
        load_reward_model(*with_adapter(policy, headless))
    weights.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is damaged"):
        load_reward_model(*with_adapter(policy, headless))


def test_another_base_than_it_was_trained_on_is_refused(policy):
    manifest = reward_folder(policy).manifest
    told = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**told, "base_hash": "0" * 64}))
    with pytest.raises(ValueError, match=r"was trained on other weights than .* has now"):
        load_reward_model(policy, policy.rewards[1])

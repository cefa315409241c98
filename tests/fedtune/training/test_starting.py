"""The adapter that a run starts from, the one that it is held against, and what is refused."""

import json
import shutil

import pytest
import torch
from plain_trl import an_anchor

HEAD = "base_model.model.score.weight"


@pytest.fixture(scope="module")
def saved(make_worker, tmp_path_factory):
    """A run's folder with an adapter of sft, and that adapter's tensors."""
    worker = make_worker()
    run = tmp_path_factory.mktemp("run")
    row = an_anchor(worker)
    worker.save_adapter(row, run / "adapter")
    return run, worker.layout.unflatten(row)


@pytest.mark.parametrize("task", ["sft", "dpo", "grpo"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_run_starts_from_a_run_or_a_peft_folder(make_worker, saved, task, inside):
    run, tensors = saved
    worker = make_worker(task=task, initial_adapter=str(run / "adapter" if inside else run))
    start = worker.layout.unflatten(worker.initial)
    assert set(start) == set(tensors)
    assert all(torch.equal(start[name], tensors[name]) for name in tensors)
    assert worker.trainer.train(worker.initial, client=0, round_=1).delta.abs().max() < 0.1


def test_without_one_it_starts_from_the_base(make_worker):
    fresh = make_worker(task="dpo")
    start = fresh.layout.unflatten(fresh.initial)
    assert not any(tensor.any() for name, tensor in start.items() if "lora_B" in name)
    assert all(tensor.any() for name, tensor in start.items() if "lora_A" in name)


def test_a_reward_model_on_top_of_an_sft_adapter_has_a_fresh_head(make_worker, saved):
    run, tensors = saved
    worker = make_worker(task="reward", initial_adapter=str(run))
    start = worker.layout.unflatten(worker.initial)
    assert set(start) == {*tensors, HEAD}
    assert all(torch.equal(start[name], tensors[name]) for name in tensors)
    fresh = make_worker(task="reward")
    assert torch.equal(start[HEAD], fresh.layout.unflatten(fresh.initial)[HEAD])


def test_a_reward_models_own_head_is_kept(make_worker, tmp_path):
    first = make_worker(task="reward")
    row = an_anchor(first)
    first.save_adapter(row, tmp_path)
    again = make_worker(task="reward", initial_adapter=str(tmp_path), federation={"seed": 9})
    assert torch.equal(again.initial, row)


def test_the_reference_is_part_of_what_all_agree_on(make_worker, saved):
    run, _ = saved
    plain, other = make_worker(task="dpo"), make_worker(task="dpo", reference=str(run))
    assert plain.base_hash == make_worker(task="dpo").base_hash
    assert plain.base_hash != other.base_hash
    started = make_worker(task="dpo", initial_adapter=str(run))
    assert started.base_hash == plain.base_hash
    both = make_worker(task="dpo", initial_adapter=str(run), reference="initial_adapter")
    assert both.base_hash == other.base_hash
    assert make_worker(initial_adapter=str(run)).base_hash == make_worker().base_hash


def changed(saved, tmp_path, **config):
    folder = shutil.copytree(saved[0] / "adapter", tmp_path / "changed")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return str(folder)


@pytest.mark.parametrize("key", ["initial_adapter", "reference"])
def test_an_adapter_that_is_not_there_is_refused(make_worker, tmp_path, key):
    with pytest.raises(FileNotFoundError, match=f"{key}: no adapter at .*; name a run's folder"):
        make_worker(task="dpo", **{key: str(tmp_path)})


@pytest.mark.parametrize(
    ("lora", "odd"),
    [
        ({"r": 2}, "lora_A.weight differs"),
        ({"target_modules": ["q_proj"]}, r"\.mlp\.down_proj\.lora_A\.weight differs"),
        ({"lora_alpha": 16}, r"lora_alpha 8\.0, here 16\.0, differs; take the section of the run"),
        ({"use_rslora": True}, "use_rslora False, here True, differs"),
    ],
    ids=["rank", "fewer modules", "alpha", "rslora"],
)
@pytest.mark.parametrize("key", ["initial_adapter", "reference"])
def test_an_adapter_of_another_section_is_refused(make_worker, saved, key, lora, odd):
    with pytest.raises(ValueError, match=rf"{key}: .* holds another adapter .*{odd}"):
        make_worker(task="dpo", lora=lora, **{key: str(saved[0])})


def test_an_adapter_that_lacks_a_module_is_refused(make_worker, tmp_path):
    """What it lacks would start at random, or be held against nothing."""
    first = make_worker(lora={"target_modules": ["q_proj"]})
    first.save_adapter(first.initial, tmp_path)
    for key in ("initial_adapter", "reference"):
        with pytest.raises(ValueError, match=rf"{key}: .*mlp\.down_proj\.lora_A\.weight differs"):
            make_worker(task="dpo", **{key: str(tmp_path)})


def test_an_adapter_with_its_own_scale_for_a_module_is_refused(make_worker, saved, tmp_path):
    folder = changed(saved, tmp_path, alpha_pattern={"q_proj": 2})
    with pytest.raises(ValueError, match=r"alpha_pattern \{'q_proj': 2\}, here \{\}, differs"):
        make_worker(task="dpo", initial_adapter=folder)


def test_a_policy_does_not_start_from_a_reward_model(make_worker, tmp_path):
    first = make_worker(task="reward")
    first.save_adapter(first.initial, tmp_path)
    with pytest.raises(ValueError, match=r"initial_adapter: .*score\.weight differs"):
        make_worker(task="dpo", initial_adapter=str(tmp_path))


def test_a_damaged_adapter_is_refused(make_worker, saved, tmp_path):
    folder = changed(saved, tmp_path)
    (tmp_path / "changed" / "adapter_model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is damaged"):
        make_worker(task="dpo", reference=folder)

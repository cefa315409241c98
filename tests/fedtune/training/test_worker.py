"""What the clients of one process share, and what they must not."""

from dataclasses import replace

import pytest
import torch

from fedtune.adapters import lora
from fedtune.training.client_round import Poison
from fedtune.training.tasks import sft


def delta(worker, *, client=0, round_=1, **more):
    return worker.trainer.train(worker.initial, client=client, round_=round_, **more).delta


def test_a_client_round_depends_on_nothing_that_came_before(make_worker):
    one, other = make_worker(), make_worker()
    first = {(client, 1): delta(one, client=client) for client in (0, 1)}
    torch.manual_seed(99)
    other.evaluator.measure(other.initial)
    second = {(client, 1): delta(other, client=client) for client in (1, 0)}
    delta(other, client=0, round_=2)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(delta(other, client=1), first[1, 1])


def test_clients_and_rounds_differ(worker):
    deltas = [delta(worker), delta(worker, client=1), delta(worker, round_=2)]
    for i, one in enumerate(deltas):
        assert one.dtype == torch.float32
        assert torch.isfinite(one).all()
        assert not any(torch.equal(one, other) for other in deltas[:i])


def test_the_anchor_is_where_training_starts(worker):
    anchor = worker.initial + 0.01
    kept = anchor.clone()
    moved = worker.trainer.train(anchor, client=0, round_=1).delta
    assert torch.equal(anchor, kept)
    # Four steps of AdamW at 5e-3 move a coordinate by at most about 0.02 each time.
    assert 0 < moved.abs().max() < 0.05
    assert not torch.equal(moved, delta(worker))


def test_clients_with_the_same_rows_are_one_client(make_worker):
    worker = make_worker(data={"partition": {"by": "replicate"}})
    assert torch.equal(delta(worker, client=0), delta(worker, client=1))
    assert worker.data.parts[0] == worker.data.parts[1]


def test_nobody_trains_on_what_is_held_out(worker):
    train = set(worker.data.split.train)
    assert train.isdisjoint(worker.data.split.test)
    assert train | set(worker.data.split.test) == set(range(64))
    dealt = [set(part.train) | set(part.test) for part in worker.data.parts.values()]
    assert dealt[0].isdisjoint(dealt[1])
    assert dealt[0] | dealt[1] == train
    assert all(set(part.train).isdisjoint(part.test) for part in worker.data.parts.values())


def test_a_liar_changes_its_rows_and_no_one_elses(make_worker):
    honest, lying = make_worker(), make_worker()
    seen = []

    def spoil(rows):
        seen.extend(rows)
        return [{**row, "completion": "no"} for row in rows]

    poison = Poison("all no", spoil)

    assert not torch.equal(delta(lying, poison=poison), delta(honest))
    assert torch.equal(delta(lying, client=1), delta(honest, client=1))
    assert len(seen) == len(lying.data.parts[0].train)
    assert set(seen[0]) == {"prompt", "completion"}  # the columns that are trained on
    delta(lying, round_=2, poison=poison)
    assert len(seen) == len(lying.data.parts[0].train)  # once
    assert lying.evaluator.measure(lying.initial) == honest.evaluator.measure(honest.initial)


def test_figures_are_those_of_the_rows_held_out(make_worker):
    worker = make_worker(evaluation={"max_rows": 5, "batch_size": 2})
    row = worker.initial + delta(worker)
    for client, indices in [(None, worker.data.split.test), (1, worker.data.parts[1].test)]:
        rows = worker.data.rows.select(indices[:5]).select_columns(["prompt", "completion"])
        prepared = sft.prepare(rows, worker.learner)
        figures = worker.evaluator.measure(row, client=client)  # leaves it there
        assert figures == sft.measure(prepared, worker.learner, batch_size=2)
    assert worker.evaluator.measure(row) != worker.evaluator.measure(worker.initial)


def test_a_saved_adapter_is_plain_peft(make_worker, tmp_path, tiny_model_folder):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    worker = make_worker(lora={"modules_to_save": ["lm_head"]})
    row = worker.initial + delta(worker)
    worker.save_adapter(row, tmp_path)
    assert torch.equal(worker.load_adapter(tmp_path), row)
    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder("llama"))
    plain = PeftModel.from_pretrained(base, tmp_path)
    learner = replace(worker.learner, model=plain)
    figures = sft.measure(worker.data.held_out(None), learner, batch_size=32)
    assert figures.loss == worker.evaluator.measure(row).loss


def test_tensors_trained_whole_are_trained(make_worker):
    worker = make_worker(lora={"modules_to_save": ["norm"]})
    moved = worker.layout.unflatten(delta(worker))
    whole = [name for name in moved if "lora_" not in name]
    assert "base_model.model.model.norm.weight" in whole
    assert all(moved[name].any() for name in whole)


def test_an_adapter_of_another_shape_is_refused(make_worker, worker, tmp_path):
    other = make_worker(lora={"r": 2})
    other.save_adapter(other.initial, tmp_path)
    with pytest.raises(ValueError, match="needs shape"):
        worker.load_adapter(tmp_path)
    with pytest.raises(ValueError, match="the row needs shape"):
        worker.trainer.train(other.initial, client=0, round_=1)


@pytest.mark.parametrize("format", ["prompt_completion", "text", "messages"])
def test_samples_show_prompt_truth_and_completion(make_worker, format):
    worker = make_worker(format=format, evaluation={"samples": 2, "max_new_tokens": 4})
    samples = worker.evaluator.samples(worker.initial)
    assert len(samples) == 2
    assert samples == worker.evaluator.samples(worker.initial)
    row = worker.data.rows[worker.data.split.test[0]]
    if format == "prompt_completion":
        assert (samples[0].prompt, samples[0].truth) == (row["prompt"].strip(), row["completion"])
    elif format == "messages":  # asked with all that stands before the answer, and nothing of it
        asked, answer = (turn["content"].strip() for turn in row["messages"])
        assert (samples[0].prompt, samples[0].truth) == (asked, answer)
        (question, *_) = worker.evaluator._questions(None, 1)
        written = worker.base.tokenizer.decode(question.ids)
        assert written.startswith("<|user|>")
        assert written.endswith("<|assistant|>")
    else:
        text = row["text"]
        told = samples[0].prompt + samples[0].truth
        assert told.replace(" ", "") == text.replace(" ", "")


def test_the_base_is_not_trained(make_worker):
    worker = make_worker()
    frozen = {
        name: tensor.clone()
        for name, tensor in worker.model.get_base_model().state_dict().items()
        if "lora_" not in name
    }
    delta(worker)
    after = worker.model.get_base_model().state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in frozen.items())
    assert set(worker.layout.unflatten(worker.initial)) == set(lora.read(worker.model))


@pytest.mark.parametrize("whole", [None, "lm_head", "norm"])
def test_a_base_in_bfloat16_trains_a_float32_adapter(make_worker, whole):
    """A delta that had been through bfloat16 would be equal to its own rounding."""
    saved = {"modules_to_save": [whole] if whole else []}
    worker = make_worker(model={"dtype": "bfloat16"}, lora=saved)
    moved = worker.layout.unflatten(delta(worker))
    assert any("lora_" not in name for name in moved) == bool(whole)
    for name, tensor in moved.items():
        assert torch.isfinite(tensor).all(), name
        assert tensor.any(), name
        assert not torch.equal(tensor, tensor.bfloat16().float()), name
    assert len(worker.evaluator.samples(worker.initial)) == 3
    full = make_worker(lora=saved)
    row = worker.initial + worker.layout.flatten(moved)
    assert worker.evaluator.measure(row).loss == pytest.approx(
        full.evaluator.measure(row).loss, rel=0.01
    )


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_a_client_round_on_the_gpu(make_worker, dtype):
    """float32 sums in another order, bfloat16 in fewer digits: near the CPU's, not equal."""
    cpu, gpu = make_worker(), make_worker(model={"device": "cuda", "dtype": dtype})
    assert gpu.base.dtype == (torch.bfloat16 if dtype == "auto" else torch.float32)
    assert gpu.base.base_hash == cpu.base.base_hash
    assert torch.equal(gpu.initial, cpu.initial)
    one = cpu.train(cpu.initial, client=0, round_=1)
    other = gpu.train(gpu.initial, client=0, round_=1)
    assert other.delta.device.type == "cpu"
    assert other.delta.dtype == torch.float32
    tolerance = 0.05 if dtype == "auto" else 1e-3
    assert other.train_loss == pytest.approx(one.train_loss, rel=tolerance)
    row = gpu.initial + other.delta
    assert gpu.measure(row).loss == pytest.approx(cpu.measure(row).loss, rel=tolerance)
    assert torch.equal(gpu.train(gpu.initial, client=0, round_=1).delta, other.delta)

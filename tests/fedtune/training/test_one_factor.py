"""A worker that trains one factor: what it keeps of its optimizer, and that averages are exact.

The equality with a plain TRL run is in test_equals_plain_trl.py.
"""

import pytest
import torch


def products(worker, row):
    """BA of each layer, in float64."""
    tensors = {name: each.double() for name, each in worker.layout.unflatten(row).items()}
    names = [name for name in tensors if "lora_A" in name]
    return [tensors[name.replace("lora_A", "lora_B")] @ tensors[name] for name in names]


def error_of_the_average(make_worker, train, round_):
    """How far the average of two clients' factors is from that of their products, relatively."""
    worker = make_worker(lora={"train": train})
    draw = torch.Generator().manual_seed(1)
    anchor = worker.initial + 0.1 * torch.randn(worker.layout.size, generator=draw)
    part = worker.part(0, round_)
    deltas = [worker.trainer.train(anchor, client=client, round_=round_).delta for client in (0, 1)]
    ends = [part.put(part.take(anchor) + delta, anchor) for delta in deltas]
    averaged = products(worker, part.put(part.take(anchor) + sum(deltas) / 2, anchor))
    start = products(worker, anchor)
    wrong = moved = 0.0
    for ours, one, other, before in zip(
        averaged, *(products(worker, end) for end in ends), start, strict=True
    ):
        exact = (one + other) / 2
        wrong += (ours - exact).square().sum().item()
        moved += (exact - before).square().sum().item()
    return (wrong / moved) ** 0.5


@pytest.mark.parametrize(("train", "round_"), [("b_only", 1), ("alternate", 1), ("alternate", 2)])
def test_to_average_one_factor_is_to_average_the_products(make_worker, train, round_):
    # To the rounding of anchor + delta in float32; measured 2.4e-7 to 3.5e-7.
    assert error_of_the_average(make_worker, train, round_) < 1e-6


def test_to_average_both_factors_is_not(make_worker):
    # Measured 1.6e-2 after four steps: it grows with what the clients differ in.
    assert error_of_the_average(make_worker, "both", 1) > 1e-2


def test_each_part_goes_on_with_its_own_moments(make_worker, tmp_path):
    # Rounds 1 and 3 train B. With a state of A in between, or none, round 3 would differ.
    worker = make_worker(
        lora={"train": "alternate"},
        federation={"inner_optimizer": "keep", "num_rounds": 3},
    )

    def train(round_, name):
        return worker.trainer.train(
            worker.initial, client=0, round_=round_, state_folder=tmp_path / name
        )

    for round_ in (1, 2):
        train(round_, "through a")
    train(1, "b alone")
    through, alone, afresh = (train(3, name).delta for name in ("through a", "b alone", "none"))
    assert torch.equal(through, alone)
    assert not torch.equal(through, afresh)
    assert sorted(path.name for path in (tmp_path / "through a").iterdir()) == ["a", "b"]


def test_what_is_trained_whole_is_trained_in_every_round(make_worker):
    worker = make_worker(lora={"train": "alternate", "modules_to_save": ["lm_head"]})
    draw = torch.Generator().manual_seed(1)
    anchor = worker.initial + 0.01 * torch.randn(worker.layout.size, generator=draw)
    for round_, factor in ((1, "lora_B"), (2, "lora_A")):
        part = worker.part(0, round_)
        delta = worker.trainer.train(anchor, client=0, round_=round_).delta
        moved = part.layout.unflatten(delta)
        assert all(tensor.any() for tensor in moved.values())
        assert {name.split(".")[-2] for name in moved} == {factor, "lm_head"}


def test_b_only_trains_an_embedding_by_its_a_which_begins_at_zero(make_worker):
    worker = make_worker("gpt2", lora={"train": "b_only", "target_modules": ["wpe"]})
    delta = worker.trainer.train(worker.initial, client=0, round_=1).delta
    assert [name.split(".")[-1] for name, _ in worker.part(0, 1).layout.shapes] == [
        "lora_embedding_A"
    ]
    assert delta.any()

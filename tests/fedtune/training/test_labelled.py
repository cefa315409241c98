"""TRL's LM head looks at positions with a label alone; what is learnt stays TRL's.

That steps have the bits of TRL's own is held by the tests named after plain TRL. Not proven here:
what it saves (benchmarks/tasks.py).
"""

import pytest
import torch

from fedtune.training import labelled
from fedtune.training.labelled import labelled_alone


@pytest.fixture
def scored(monkeypatch, tiny_model_folder):
    """Log-probabilities of a batch with four labels, and how many positions the head has seen."""
    from transformers import AutoModelForCausalLM
    from trl.trainer import utils

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder("llama"))
    utils.add_fused_lm_head(model)
    seen, kernel = [], utils._ChunkedLogProbFunction.apply
    monkeypatch.setattr(
        utils._ChunkedLogProbFunction,
        "apply",
        lambda hidden, *rest: seen.append(len(hidden)) or kernel(hidden, *rest),
    )
    ids = torch.arange(5, 25).view(2, 10)
    labels = torch.full_like(ids, -100)
    labels[0, 6:] = ids[0, 6:]

    def score():
        model.zero_grad()
        found = model(input_ids=ids, labels=labels, fused_lm_head=True)
        found.loss.backward()
        return seen[-1], found.log_probs.detach(), model.lm_head.weight.grad.clone()

    return score


def test_the_head_sees_labelled_positions_alone_with_the_same_result(scored):
    everywhere, log_probs, gradient = scored()
    with labelled_alone():
        alone, found, learnt = scored()
    assert (everywhere, alone) == (18, 4)
    assert torch.allclose(found, log_probs, rtol=0, atol=1e-6)
    assert torch.allclose(learnt, gradient, rtol=0, atol=1e-7)
    assert scored()[0] == 18  # nothing is left behind


def test_a_trl_that_chooses_otherwise_is_left_as_it_is(scored, monkeypatch):
    monkeypatch.setattr(labelled, "_chooses", lambda: False)
    with labelled_alone():
        assert scored()[0] == 18


def test_the_pinned_trl_chooses_as_is_known():
    assert labelled._chooses()

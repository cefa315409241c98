"""What a round trains and sends, by hand. Not proven here: that training keeps to it."""

import pytest
import torch

from fedtune.adapters import lora
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part, factor_of
from fedtune.recipe import Lora

# Sorted by name: head takes columns 0..2, q's A 3..6, q's B 7..8, v's A 9..10, v's B 11.
LAYOUT = Layout(
    (
        ("head.weight", (3,)),
        ("q.lora_A.weight", (2, 2)),
        ("q.lora_B.weight", (1, 2)),
        ("v.lora_A.weight", (1, 2)),
        ("v.lora_B.weight", (1, 1)),
    )
)
ROW = torch.arange(12.0)
COLUMNS = {
    "both": list(range(12)),
    "a": [0, 1, 2, 3, 4, 5, 6, 9, 10],
    "b": [0, 1, 2, 7, 8, 11],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_by_hand(name):
    part, columns = Part(name, LAYOUT), COLUMNS[name]
    assert part.layout.size == len(columns)
    assert part.take(ROW).tolist() == columns
    changed = part.put(part.take(ROW) + 100, ROW)
    assert changed.tolist() == [i + 100 if i in columns else i for i in range(12)]
    assert ROW.tolist() == list(range(12))


def test_what_is_taken_is_a_copy():
    Part("both", LAYOUT).take(ROW).zero_()
    assert ROW[11] == 11


def test_alternate_begins_with_b():
    # B is zero at the start, and so is A's gradient.
    names = {
        train: [Part.of_round(LAYOUT, train, round_).name for round_ in (1, 2, 3, 4)]
        for train in ("both", "b_only", "alternate")
    }
    assert names == {
        "both": ["both"] * 4,
        "b_only": ["b"] * 4,
        "alternate": ["b", "a", "b", "a"],
    }


def test_a_selection_keeps_the_layouts_order_and_refuses_foreign_names():
    names = [name for name, _ in LAYOUT.shapes]
    assert LAYOUT.select(names[::-1]) == LAYOUT
    assert LAYOUT.select(["v.lora_B.weight", "head.weight"]).shapes == (
        ("head.weight", (3,)),
        ("v.lora_B.weight", (1, 1)),
    )
    with pytest.raises(ValueError, match="no tensor 'tail' among the 5"):
        LAYOUT.select(["head.weight", "tail"])
    with pytest.raises(ValueError, match="at least one tensor"):
        LAYOUT.select([])


def test_a_row_of_another_part_is_refused():
    part = Part("b", LAYOUT)
    with pytest.raises(ValueError, match=r"needs shape \(6,\); got \(9,\)"):
        part.put(torch.zeros(9), ROW)
    with pytest.raises(ValueError, match=r"needs shape \(12,\); got \(6,\)"):
        part.take(torch.zeros(6))


@pytest.fixture
def model(tiny_model_folder):
    """Two linear layers, the embedding, and norms that are trained whole."""
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(tiny_model_folder("llama"))
    base.config.tie_word_embeddings = False  # PEFT warns of LoRA on a tied embedding
    targets = ["q_proj", "v_proj", "embed_tokens"]
    section = Lora(r=2, target_modules=targets, modules_to_save=["norm"])
    return lora.attach(base, section, task_type="CAUSAL_LM", seed=0)


def test_the_factor_that_begins_at_zero_is_b_even_in_an_embedding(model):
    tensors = lora.read(model)
    for name, tensor in tensors.items():
        assert tensor.any() == (factor_of(name) != "b"), name
    whole = [name for name in tensors if factor_of(name) is None]
    assert len(whole) == 5  # PEFT goes by the end of a name: two in each layer, and the last
    assert all(name.endswith("norm.weight") for name in whole)


@pytest.mark.parametrize(("train", "round_"), [("b_only", 1), ("alternate", 2), ("both", 1)])
def test_only_the_part_takes_gradients_and_afterwards_all_do(model, train, round_):
    part = Part.of_round(Layout.of(lora.read(model)), train, round_)
    before = {name for name, each in model.named_parameters() if each.requires_grad}
    with lora.training_only(model, part):
        trained = {name for name, each in model.named_parameters() if each.requires_grad}
        model(input_ids=torch.arange(5, 25).view(1, 20)).logits.sum().backward()
        given = {name for name, each in model.named_parameters() if each.grad is not None}
    assert {name for name, each in model.named_parameters() if each.requires_grad} == before
    assert given == trained == {name for name in before if part.holds(name)}
    assert len(trained) == len(part.layout.shapes)


def test_an_error_in_training_leaves_no_tensor_fixed(model):
    part = Part.of_round(Layout.of(lora.read(model)), "b_only", 1)
    before = {name for name, each in model.named_parameters() if each.requires_grad}
    with pytest.raises(OSError, match="full"), lora.training_only(model, part):
        raise OSError("the disk is full")
    assert {name for name, each in model.named_parameters() if each.requires_grad} == before

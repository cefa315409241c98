"""Attach, read, write, save: on three architectures, with and without tensors trained whole."""

import pytest
import torch

from fedtune.adapters import lora, merging
from fedtune.adapters.layout import Layout
from fedtune.recipe import Lora

ARCHITECTURES = ["llama", "qwen3", "gpt2"]
IDS = torch.arange(5, 45).view(2, 20)


@pytest.fixture
def load(tiny_model_folder):
    """Return a function: architecture -> a fresh base model."""
    from transformers import AutoModelForCausalLM

    return lambda architecture: AutoModelForCausalLM.from_pretrained(
        tiny_model_folder(architecture)
    )


def attach(base, *, seed=0, **options):
    return lora.attach(base, Lora(r=4, **options), task_type="CAUSAL_LM", seed=seed).eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def drawn(tensors, *, seed=1):
    """Other values for the same tensors, of a size that changes the logits."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: 0.3 * torch.randn(tensor.shape, generator=generator)
        for name, tensor in tensors.items()
    }


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_fresh_adapter_is_seeded_and_changes_nothing(load, architecture):
    base = load(architecture)
    before = logits(base.eval())
    model = attach(base, seed=3)
    tensors = lora.read(model)
    assert torch.equal(logits(model), before)
    ones = {name: tensor for name, tensor in tensors.items() if "lora_A" in name}
    twos = {name: tensor for name, tensor in tensors.items() if "lora_B" in name}
    assert len(ones) == len(twos) == len(tensors) / 2 > 0
    assert all(tensor.abs().min() > 0 for tensor in ones.values())
    assert all(not tensor.any() for tensor in twos.values())
    assert same(tensors, lora.read(attach(load(architecture), seed=3)))
    assert not same(tensors, lora.read(attach(load(architecture), seed=4)))


def test_attaching_leaves_the_random_state_alone(load):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    attach(load("llama"), seed=3)
    assert torch.equal(torch.rand(3), expected)


def test_a_second_adapter_is_refused(load):
    model = attach(load("llama"))
    for base in (model, model.get_base_model()):
        with pytest.raises(ValueError, match="already carries an adapter; unload it"):
            attach(base)
    # Unloaded, the base takes another.
    assert lora.read(attach(model.unload()))


def test_a_target_that_no_module_bears_is_refused(load):
    with pytest.raises(ValueError, match="no_such_module"):
        attach(load("llama"), target_modules=["no_such_module"])


def test_read_gives_copies_and_write_keeps_none(load):
    model = attach(load("llama"))
    first = lora.read(model)
    assert list(first) == sorted(first)
    assert {tensor.dtype for tensor in first.values()} == {torch.float32}
    for tensor in first.values():
        tensor.fill_(9.0)
    fresh = lora.read(model)
    assert not any((tensor == 9.0).all() for tensor in fresh.values())
    mine = drawn(fresh)
    kept = {name: tensor.clone() for name, tensor in mine.items()}
    lora.write(model, mine)
    for tensor in mine.values():
        tensor.zero_()
    assert same(lora.read(model), kept)


# Plain PEFT says so of GPT-2, whose embedding bears a name that it does not know; and ties them.
@pytest.mark.filterwarnings("ignore:You have requested `ensure_weight_tying`")
@pytest.mark.parametrize("whole", ["nothing", "lm_head", "last norm"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_write_read_save_and_plain_peft_agree(load, tmp_path, architecture, whole):
    """`lm_head` shares the embedding's memory in all three; the last norm is a tensor by itself."""
    from peft import PeftModel

    norm = "ln_f" if architecture == "gpt2" else "norm"
    saved = {"nothing": [], "lm_head": ["lm_head"], "last norm": [norm]}[whole]
    model = attach(load(architecture), modules_to_save=saved)
    tensors = lora.read(model)
    assert any("lora_" not in name for name in tensors) == bool(saved)

    mine = drawn(tensors)
    lora.write(model, dict(reversed(mine.items())))
    assert same(lora.read(model), mine)
    assert logits(model).sub(logits(load(architecture).eval())).abs().max() > 0.01

    layout = Layout.of(tensors)
    row = layout.flatten(lora.read(model))
    lora.write(model, layout.unflatten(row))
    assert same(lora.read(model), mine)

    lora.save(model, tmp_path)
    assert same(lora.load(model, tmp_path), mine)
    plain = PeftModel.from_pretrained(load(architecture), tmp_path).eval()
    assert torch.equal(logits(plain), logits(model))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_tensor_counts(load, architecture):
    """A tensor that is read but never written, or written to a copy, would leave the logits."""
    model = attach(load(architecture), modules_to_save=["lm_head"])
    tensors = drawn(lora.read(model))
    lora.write(model, tensors)
    before = logits(model)
    for name in tensors:
        lora.write(model, {**tensors, name: 2 * tensors[name]})
        assert not torch.equal(logits(model), before), name
    lora.write(model, tensors)
    assert torch.equal(logits(model), before)


def test_tied_tensors_travel_once(load):
    """The head and the embedding are one tensor: 264 x 32 = 8448 columns, not twice as many."""
    size = Layout.of(lora.read(attach(load("llama")))).size
    model = attach(load("llama"), modules_to_save=["lm_head"])
    assert Layout.of(lora.read(model)).size == size + 8448
    tensors = lora.read(model)
    lora.write(model, {**tensors, "base_model.model.lm_head.weight": torch.ones(264, 32)})
    inner = model.get_base_model()
    assert (inner.get_input_embeddings().weight == 1).all()
    assert (inner.get_output_embeddings().weight == 1).all()


@pytest.mark.parametrize("whole", ["nothing", "lm_head", "last norm"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_base_in_bfloat16_has_its_adapter_in_float32(tiny_model_folder, architecture, whole):
    from transformers import AutoModelForCausalLM

    folder = tiny_model_folder(architecture)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    before = logits(base)
    norm = "ln_f" if architecture == "gpt2" else "norm"
    saved = {"nothing": [], "lm_head": ["lm_head"], "last norm": [norm]}[whole]
    model = attach(base, modules_to_save=saved)
    assert logits(model).dtype == torch.bfloat16
    # A norm rounds once where the base's own rounds twice: 2**-8 of logits below 1, at most.
    torch.testing.assert_close(logits(model), before, rtol=0, atol=2**-8)
    # 1 + 2**-20 is no bfloat16: it must survive.
    mine = {name: torch.full_like(part, 1 + 2**-20) for name, part in lora.read(model).items()}
    lora.write(model, mine)
    assert same(lora.read(model), mine)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda tensors, name: tensors | {"other": torch.zeros(1)}, "brings 'other'"),
        (lambda tensors, name: {k: v for k, v in tensors.items() if k != name}, "lacks"),
        (lambda tensors, name: tensors | {name: tensors[name].T.contiguous()}, "needs shape"),
        (lambda tensors, name: tensors | {name: torch.tensor(1.0)}, "needs shape"),
    ],
)
def test_other_names_or_shapes_write_nothing(load, change, part):
    model = attach(load("llama"))
    before = lora.read(model)
    last = max(before)  # the last one written, so that the others would be written before it
    with pytest.raises(ValueError, match=part):
        lora.write(model, change(drawn(before), last))
    assert same(lora.read(model), before)


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_damaged_file_is_named(load, tmp_path, size):
    model = attach(load("llama"))
    lora.save(model, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        lora.load(model, tmp_path)
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is damaged"):
        merging.merge(load("llama"), tmp_path)


def test_merged_weights_give_the_adapters_logits(load, tmp_path):
    model = attach(load("qwen3"))
    lora.write(model, drawn(lora.read(model)))
    lora.save(model, tmp_path)
    merged = merging.merge(load("qwen3"), tmp_path)[0].eval()
    # W + s BA is rounded once to float32 before it is used: not to the bit.
    torch.testing.assert_close(logits(merged), logits(model), rtol=1e-4, atol=1e-4)
    assert not any("lora" in name for name, _ in merged.named_parameters())

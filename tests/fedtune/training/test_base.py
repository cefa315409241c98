"""The base model is found, hashed, and put where the recipe says."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedtune.nano import model_folder
from fedtune.recipe import Model
from fedtune.training.base import (
    check_model,
    choose_device,
    choose_dtype,
    find_folder,
    hash_tokenizer,
    hash_weights,
    load_base,
)

CPU = torch.device("cpu")


@pytest.fixture
def copied(tiny_model_folder, tmp_path):
    """Return a function that copies a model folder, so that it can be changed."""

    def copy(name):
        return shutil.copytree(tiny_model_folder("llama"), tmp_path / name)

    return copy


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt2"])
def test_any_local_folder_loads(tiny_model_folder, architecture):
    folder = tiny_model_folder(architecture)
    base = load_base(Model(name_or_path=str(folder), device="cpu"))
    assert base.model.config.model_type == architecture
    assert {p.dtype for p in base.model.parameters()} == {torch.float32}
    assert base.base_hash == hash_weights(folder)
    assert base.tokenizer.pad_token is not None


def test_nano_is_the_default():
    assert find_folder(Model()) == model_folder()
    base = load_base(Model(device="cpu"))
    assert base.model.num_parameters() > 900_000
    assert base.model.dtype == torch.float32  # although its file is float16
    assert base.model(torch.tensor([[1, 2, 3]])).logits.shape[:2] == (1, 3)


def test_the_hash_is_that_of_the_folder_not_of_the_dtype(tiny_model_folder):
    folder = str(tiny_model_folder("llama"))
    full = load_base(Model(name_or_path=folder, dtype="float32", device="cpu"))
    half = load_base(Model(name_or_path=folder, dtype="bfloat16", device="cpu"))
    assert (full.dtype, half.dtype) == (torch.float32, torch.bfloat16)
    assert half.model.dtype == torch.bfloat16
    assert full.base_hash == half.base_hash
    assert full.tokenizer_hash == half.tokenizer_hash


def test_one_changed_weight_changes_the_hash(copied):
    before, after = copied("before"), copied("after")
    assert hash_weights(before) == hash_weights(after)
    changed = copied("changed")
    tensors = load_file(changed / "model.safetensors")
    first = next(iter(tensors.values()))
    first.view(-1)[0] += 1e-6
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    assert hash_weights(changed) != hash_weights(before)


def test_files_that_are_not_loaded_do_not_change_the_hash(copied):
    folder = copied("both")
    before = hash_weights(folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "training_args.bin").write_bytes(b"no weights")
    hash_weights.cache_clear()
    assert hash_weights(folder) == before
    weights = load_base(Model(name_or_path=str(folder), device="cpu")).model.state_dict()
    (folder / "model.safetensors").unlink()
    hash_weights.cache_clear()
    alone = load_base(Model(name_or_path=str(folder), device="cpu"))
    assert alone.base_hash == hash_weights(folder) != before
    assert all(torch.equal(weights[name], part) for name, part in alone.model.state_dict().items())


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("transformers_version", "99.0", True),
        ("rope_theta", 5e5, False),
        ("rms_norm_eps", 1e-3, False),
    ],
)
def test_the_hash_counts_what_the_model_computes(copied, key, value, same):
    before, after = copied("before"), copied("after")
    config = json.loads((after / "config.json").read_text())
    (after / "config.json").write_text(json.dumps({**config, key: value}))
    assert (hash_weights(before) == hash_weights(after)) is same


def test_the_tokenizer_hash(tiny_model_folder):
    from transformers import AutoTokenizer

    folder = tiny_model_folder("llama")
    one, other = (AutoTokenizer.from_pretrained(folder) for _ in range(2))
    before = hash_tokenizer(one)
    one(["a", "long text"], padding=True, truncation=True, max_length=3)  # leaves state behind
    assert hash_tokenizer(one) == before
    other.chat_template = "{{ messages }}"
    assert hash_tokenizer(other) != before
    assert hash_tokenizer(AutoTokenizer.from_pretrained(model_folder())) != before
    more = AutoTokenizer.from_pretrained(folder)
    more.add_tokens(["<|extra|>"])
    assert hash_tokenizer(more) != before


def test_a_tokenizer_without_padding_pads_with_its_end(copied):
    folder = copied("unpadded")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    base = load_base(Model(name_or_path=str(folder), device="cpu"))
    assert base.tokenizer.pad_token == "<|end|>"


def test_dtypes():
    assert choose_dtype("auto", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16
    assert choose_dtype("float16", CPU) == torch.float16
    assert choose_device("cpu") == CPU
    assert choose_device("cuda").type == "cuda"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_auto_takes_what_is_there():
    mps = torch.backends.mps.is_available()
    assert choose_device("auto") == torch.device("mps" if mps else "cpu")


@pytest.mark.gpu
def test_auto_takes_the_gpu(tiny_model_folder):
    folder = str(tiny_model_folder("llama"))
    base = load_base(Model(name_or_path=folder))
    assert base.device.type == "cuda"
    assert base.model.dtype == torch.bfloat16
    assert base.base_hash == load_base(Model(name_or_path=folder, device="cpu")).base_hash


def test_what_is_no_model_is_refused(tmp_path, copied):
    with pytest.raises(FileNotFoundError, match=r"needs a config.json: it is no model folder"):
        load_base(Model(name_or_path=str(tmp_path)))
    with pytest.raises(FileNotFoundError, match=r"name nano, a folder, or download the model"):
        load_base(Model(name_or_path="nobody/nothing"))
    with pytest.raises(FileNotFoundError, match=r"name nano, a folder, or download the model"):
        load_base(Model(name_or_path="/no/such/folder"))
    empty = copied("empty")
    (empty / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="needs weights"):
        hash_weights(empty)


@pytest.mark.parametrize(
    ("missing", "problem"),
    [
        ("config.json", "needs a config.json"),
        ("*.safetensors", "needs weights"),
        ("tokenizer*", "needs a tokenizer"),
    ],
)
def test_a_folder_is_checked_without_reading_its_weights(copied, missing, problem):
    folder = copied("model")
    (folder / "model.safetensors").write_bytes(b"gigabytes that would take minutes")
    check_model(Model(name_or_path=str(folder)))
    for file in folder.glob(missing):
        file.unlink()
    with pytest.raises(FileNotFoundError, match=problem):
        check_model(Model(name_or_path=str(folder)))


def test_nano_is_checked():
    check_model(Model())


def test_a_folder_that_names_another_base_is_refused(tiny_model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model_folder("llama"), folder)
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "other/model"}')
    with pytest.raises(ValueError, match="is an adapter; name its base"):
        load_base(Model(name_or_path=str(folder)))

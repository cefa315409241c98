"""The base model: found, hashed, loaded once. Finding it imports no transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from fedtune import nano
from fedtune.recipe import Model
from fedtune.recipe.beside import looked_in
from fedtune.training.attention import attention_of
from fedtune.training.quiet import without_warnings

WEIGHTS = ("*.safetensors", "pytorch_model*.bin")  # the first kind that is there is loaded
TOKENIZERS = ("tokenizer*", "vocab*", "*.model", "*.tiktoken", "tekken.json")
PARTS = ("*.json", "*.jinja", "*.txt", *TOKENIZERS)  # what is read of a model beside its weights

ADAPTER = "adapter_config.json"
_IS_ADAPTER = "is an adapter; name its base, merged or bare"
NO_CODE = {"trust_remote_code": False}  # unsaid, transformers would ask on the terminal


@dataclass(frozen=True)
class Base:
    """A base model in memory, with the hashes that clients and server agree on."""

    model: Any
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    base_hash: str
    tokenizer_hash: str


def load_base(section: Model, *, peft_type: str = "CAUSAL_LM", seed: int = 0) -> Base:
    """Load a model and its tokenizer, on the device and in the dtype that the recipe names.

    Args:
        section: The recipe's.
        peft_type: PEFT's name of the kind of model: CAUSAL_LM, or SEQ_CLS with one label.
        seed: Draws the head that a classifier has and the base has not.

    Raises:
        FileNotFoundError: If a named folder, or a hub model in the cache, is not there.
        ValueError: If the folder holds an adapter's configuration.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = find_folder(section)
    if (folder / ADAPTER).is_file():  # transformers would fetch another base for it
        raise ValueError(f"model.name_or_path: {folder} {_IS_ADAPTER}")
    device = choose_device(section.device)
    dtype = choose_dtype(section.dtype, device)
    tokenizer = _tokenizer_in(folder)
    model = _load_model(folder, section, peft_type, dtype=dtype, device=device, seed=seed)
    model.config.use_cache = False
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return Base(model, tokenizer, device, dtype, hash_weights(folder), hash_tokenizer(tokenizer))


def load_tokenizer(section: Model) -> Any:  # noqa: ANN401
    """A model's tokenizer alone; of the hub's, only its small files are asked.

    Raises:
        OSError: If there is none.
        ValueError: If transformers cannot read it.
    """
    folder = local_folder(section)
    return _tokenizer_in(section.name_or_path if folder is None else folder, section.revision)


def _tokenizer_in(folder: Path | str, revision: str | None = None) -> Any:  # noqa: ANN401
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, revision=revision, **NO_CODE)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _load_model(
    folder: Path,
    section: Model,
    peft_type: str,
    *,
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> Any:  # noqa: ANN401
    from transformers import AutoConfig

    kind = kind_of(peft_type)
    keys: dict[str, Any] = {"dtype": dtype, **NO_CODE}
    if section.attn_implementation is not None:
        config = AutoConfig.from_pretrained(folder, **NO_CODE)
        keys |= attention_of(section, config, kind, device=device, dtype=dtype)
    if section.load_in_4bit:
        keys |= {"quantization_config": _four_bit(section, dtype), "device_map": {"": device}}
    if peft_type == "CAUSAL_LM":
        model = kind.from_pretrained(folder, **keys)
    else:
        with torch.random.fork_rng(), without_warnings():  # it warns of the head that is drawn
            torch.manual_seed(seed)
            model = kind.from_pretrained(folder, num_labels=1, **keys)
    return model if section.load_in_4bit else model.to(device)


def kind_of(peft_type: str) -> Any:  # noqa: ANN401
    """Transformers' class that builds a kind of model, by PEFT's name of it."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if peft_type == "CAUSAL_LM" else AutoModelForSequenceClassification


def _four_bit(section: Model, dtype: torch.dtype) -> Any:  # noqa: ANN401
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=section.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=section.use_bnb_nested_quant,
        bnb_4bit_compute_dtype=dtype,
    )


def find_folder(section: Model) -> Path:
    """The folder that holds the model: nano's, a local one, or the hub's snapshot.

    Raises:
        FileNotFoundError: If there is none, with what to do.
    """
    local = local_folder(section)
    if local is not None:
        return local
    from huggingface_hub import snapshot_download

    name, revision = section.name_or_path, section.revision
    with _hub_errors(name):
        for weights in WEIGHTS:
            wanted = [*PARTS, weights]
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
            if any(folder.glob(weights)):
                break
    return folder


def find_here(section: Model) -> Path | None:
    """The folder of nano, or of a hub model that is in this machine's cache; nothing is fetched.

    A name is the hub's here: no folder is looked for under it.
    """
    if section.name_or_path == "nano":
        return nano.model_folder()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(
            section.name_or_path, revision=section.revision, local_files_only=True
        )
        folder = Path(found)
        find_weights(folder)
    except (HFValidationError, LocalEntryNotFoundError, OSError):
        return None
    return folder if (folder / "config.json").is_file() else None


def check_model(section: Model) -> None:
    """Say what is missing of a model before it is loaded; of the hub's, only its config is asked.

    Raises:
        FileNotFoundError: If the model, its weights or its tokenizer is not there, with what to do.
    """
    folder = local_folder(section)
    if folder is not None:
        find_weights(folder)
        if (folder / ADAPTER).is_file():
            raise FileNotFoundError(f"{folder} {_IS_ADAPTER}")
        if not any(file for pattern in TOKENIZERS for file in folder.glob(pattern)):
            raise FileNotFoundError(f"{folder} needs a tokenizer ({', '.join(TOKENIZERS)})")
        return
    from huggingface_hub import hf_hub_download

    with _hub_errors(section.name_or_path):
        hf_hub_download(section.name_or_path, "config.json", revision=section.revision)


def find_weights(folder: Path) -> list[Path]:
    """The files that a model is loaded from, by name: safetensors where there are any.

    Raises:
        FileNotFoundError: If the folder holds none.
    """
    for pattern in WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            return files
    raise FileNotFoundError(f"{folder} needs weights ({', '.join(WEIGHTS)}); got none")


def local_folder(section: Model) -> Path | None:
    """The folder of nano, or the one that is named; None: it is a name of the hub's.

    Raises:
        FileNotFoundError: If the folder holds no model.
    """
    if section.name_or_path == "nano":
        return nano.model_folder()
    folder = Path(section.name_or_path).expanduser()
    if not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        adapter = (folder / ADAPTER).is_file()
        what = _IS_ADAPTER if adapter else "needs a config.json: it is no model folder"
        raise FileNotFoundError(f"{folder} {what}")
    return folder


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        yield
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"model.name_or_path: {name!r} is no folder{looked_in(name)}, and the hub did not "
            f"give it ({type(error).__name__}); name nano, a folder, or download the model first"
        ) from error


def choose_device(name: str) -> torch.device:
    """The device that a recipe's `auto` means here, or the one that it names."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """bfloat16 on CUDA devices that compute in it, else float32; or the dtype that is named."""
    if name != "auto":
        chosen: torch.dtype = getattr(torch, name)
        return chosen
    if device.type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


@lru_cache(maxsize=4)
def hash_weights(folder: Path) -> str:
    """SHA-256 over the weight files and the architecture, whatever dtype they are loaded in.

    Raises:
        FileNotFoundError: If the folder holds no weights.
    """
    files = find_weights(folder)
    digest = hashlib.sha256()
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    for volatile in ("transformers_version", "_name_or_path"):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def hash_tokenizer(tokenizer: Any) -> str:  # noqa: ANN401
    """SHA-256 over vocabulary, merges, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    vocabulary = json.loads(backend.to_str()) if backend is not None else tokenizer.get_vocab()
    if backend is not None:  # state of the last call, not part of what the tokenizer is
        vocabulary.pop("truncation", None)
        vocabulary.pop("padding", None)
    parts = [vocabulary, tokenizer.special_tokens_map, tokenizer.chat_template]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()

"""What all tests share: no network, no telemetry, caches of their own, small models and data.

`tiny_model_folder("llama")` and `small_data("jsonl", "prompt_completion")` give folders and files
as a user would bring them. Each is made once per session: do not write into them.
"""

import os
import shutil
import signal
import sys
import tempfile
from functools import cache
from pathlib import Path

CACHES = Path(tempfile.mkdtemp(prefix="fedtune-tests-"))

# Libraries read these when they are first imported, so they are set before anything else.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    FLWR_TELEMETRY_ENABLED="0",
    FLWR_DISABLE_UPDATE_CHECK="1",
    RAY_USAGE_STATS_ENABLED="0",
    TOKENIZERS_PARALLELISM="false",
    OMP_NUM_THREADS="1",
    MPLBACKEND="agg",
    HF_HOME=str(CACHES / "huggingface"),
    FEDTUNE_CACHE=str(CACHES / "fedtune"),
    TRACKIO_DIR=str(CACHES / "trackio"),
)

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

torch.set_num_threads(1)
# A job in the background, or of nohup, ignores these, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
# The same examples each time, and a slow machine is no fault of theirs.
settings.register_profile(
    "fedtune",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("fedtune")

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LOADED = pytest.StashKey()
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]


def pytest_collection_finish(session):
    stack = {"trl", "transformers", "peft", "datasets"}
    session.config.stash[LOADED] = stack & set(sys.modules)


@pytest.fixture
def loaded_by_collection(request):
    """Of the libraries that train, those that were loaded when all tests had been collected."""
    return request.config.stash[LOADED]


def pytest_unconfigure():
    shutil.rmtree(CACHES, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory):
    """Return a function: architecture -> a model folder in the hub's format, random weights.

    About 30k parameters and 261 tokens: one per byte and five special ones. The architectures
    are llama, qwen2, qwen3 and gpt2.
    """

    @cache
    def make(architecture, *, seed=0):
        folder = tmp_path_factory.mktemp(architecture)
        tokenizer = _byte_tokenizer()
        tokenizer.save_pretrained(folder)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            _tiny_model(architecture, tokenizer).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """The tokenizer of all tiny models: a token for each byte and five special ones."""
    return _byte_tokenizer()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory):
    """Return a function: (kind, format) -> a data set of 64 rows on disk.

    The kinds are jsonl, json, csv, parquet and saved (to disk, by `datasets`); the formats are
    those of FORMATS, of which csv holds none with messages. Every row also has `topic`, one of
    eight natural ids of unequal size.
    """
    from datasets import Dataset

    @cache
    def make(kind, format="prompt_completion", *, num_rows=64):
        rows = Dataset.from_list(small_rows(format, num_rows))
        path = tmp_path_factory.mktemp("data") / f"rows.{kind}"
        if kind == "saved":
            rows.save_to_disk(path)
        elif kind == "jsonl":
            rows.to_json(path)
        elif kind == "json":
            rows.to_json(path, lines=False)
        elif kind == "csv":
            rows.to_csv(path, index=False)
        else:
            rows.to_parquet(path)
        return path

    return make


def user(text):
    return [{"role": "user", "content": text}]


def assistant(text):
    return [{"role": "assistant", "content": text}]


# A row from a prompt, what is right and what is wrong; the names follow TRL's.
FORMATS = {
    "prompt_completion": lambda p, good, bad: {"prompt": p, "completion": good},
    "text": lambda p, good, bad: {"text": p + good},
    "messages": lambda p, good, bad: {"messages": user(p) + assistant(good)},
    "pairs": lambda p, good, bad: {"prompt": p, "chosen": good, "rejected": bad},
    "pairs_implicit": lambda p, good, bad: {"chosen": p + good, "rejected": p + bad},
    "pairs_messages": lambda p, good, bad: {
        "prompt": user(p),
        "chosen": assistant(good),
        "rejected": assistant(bad),
    },
    "pairs_messages_implicit": lambda p, good, bad: {
        "chosen": user(p) + assistant(good),
        "rejected": user(p) + assistant(bad),
    },
    "prompts": lambda p, good, bad: {"prompt": p, "answer": good},
    "prompts_messages": lambda p, good, bad: {"prompt": user(p), "answer": good},
}


def small_rows(format, num_rows):
    """Arithmetic that a tiny model can learn something of: row i adds i % 8 and i % 5."""
    rows = []
    for i in range(num_rows):
        right = i % 8 + i % 5
        good, bad = f"{right}" + "!" * (i % 4), f"{right + 1}?" * (i % 3 + 1)
        row = FORMATS[format](f"add {i % 8} {i % 5}: ", good, bad)
        rows.append({**row, "topic": f"topic-{min(i % 12, 7)}"})
    return rows


def _byte_tokenizer():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*SPECIAL_TOKENS, *alphabet])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|pad|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=256,
    )


def _tiny_model(architecture, tokenizer):
    from transformers import (
        GPT2Config,
        GPT2LMHeadModel,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
        Qwen3Config,
        Qwen3ForCausalLM,
    )

    special = {
        "vocab_size": 264,  # a little more than there are tokens, as in real models
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "gpt2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
        dropouts = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
        return GPT2LMHeadModel(GPT2Config(**special, **sizes, **dropouts))
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
    }
    if architecture == "qwen3":
        sizes["head_dim"] = 8
    config, model = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
    }[architecture]
    return model(config(**special, **sizes))

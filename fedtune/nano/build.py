"""Train ``nano`` from scratch on what is installed here, and write its folder."""

from __future__ import annotations

import json
import math
import platform
import sysconfig
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from fedtune.nano.card import write_card
from fedtune.nano.corpus import Corpus, StandardLibrary, read_corpus, site_packages
from fedtune.nano.evaluate import Fit, completion_fit, text_fit
from fedtune.nano.python_docs import rows as python_docs_rows
from fedtune.nano.tokenizer import MAX_TOKENS, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

__all__ = ["STEPS", "Progress", "build"]

Progress = Callable[[int, float], None]
STEPS = 5000  # of the shipped model


@dataclass(frozen=True)
class Schedule:
    """How the training goes: AdamW, linear warm-up, cosine down to zero."""

    steps: int
    batch_size: int
    sequence_length: int
    learning_rate: float
    seed: int
    weight_decay: float = 0.1
    warmup: float = 0.04

    def rate(self, step: int) -> float:
        """Give the learning rate of a step, counted from 0."""
        warm = max(1, round(self.warmup * self.steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / (self.steps - warm)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def build(
    out: Path,
    *,
    steps: int = STEPS,
    batch_size: int = 8,
    sequence_length: int = 256,
    learning_rate: float = 3e-3,
    seed: int = 0,
    packages: Path | None = None,
    library: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read the corpus, train tokenizer and model, and write a folder that transformers loads.

    The same files, options, seed and machine give the same bits on one thread.

    Args:
        out: The folder to write; what ``build`` wrote there before is replaced.
        steps: Optimizer steps, at least 1.
        batch_size: Sequences per step, at least 1.
        sequence_length: Tokens per sequence, 2 to 512.
        learning_rate: The highest learning rate.
        seed: Of the initial weights and of the order of the documents.
        packages: Folder to read the corpus from; by default where fedtune's neighbours are.
        library: Standard library to keep out of the corpus; by default that of this Python.
        progress: Called after each step with the steps done and the loss of the last.

    Returns:
        The figures of the model card, also in ``figures.json``.

    Raises:
        ValueError: If an option is out of bounds or the folder gives no documents.
    """
    _check(steps, batch_size, sequence_length, learning_rate)
    schedule = Schedule(steps, batch_size, sequence_length, learning_rate, seed)
    started = time.monotonic()
    library = library or Path(sysconfig.get_path("stdlib"))
    corpus = read_corpus(packages or site_packages(), StandardLibrary.of(library))
    if not corpus.train or not corpus.held_out:
        raise ValueError(
            f"nano needs documents to train on and to hold out: got {len(corpus.train)} and "
            f"{len(corpus.held_out)}; point it at a folder with more Python packages"
        )
    tokenizer = train_tokenizer(document.text for document in corpus.train)
    model = _new_model(len(tokenizer), tokenizer, seed)
    tokens = _tokens(tokenizer, [document.text for document in corpus.train])
    _train(model, _batches(tokens, schedule), schedule, progress)
    _save(model, tokenizer, out)
    figures = _figures(out, corpus, tokens, schedule)
    write_card(out, figures, wall_s=time.monotonic() - started)
    return figures


def _check(steps: int, batch_size: int, sequence_length: int, learning_rate: float) -> None:
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size need to be >= 1: got {steps} and {batch_size}")
    if not 2 <= sequence_length <= MAX_TOKENS:
        raise ValueError(f"sequence_length needs 2 to {MAX_TOKENS}: got {sequence_length}")
    if not 0 < learning_rate < 1:
        raise ValueError(f"learning_rate needs to be above 0 and below 1: got {learning_rate}")


def _new_model(vocabulary: int, tokenizer: PreTrainedTokenizerFast, seed: int) -> PreTrainedModel:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        intermediate_size=352,
        max_position_embeddings=MAX_TOKENS,
        tie_word_embeddings=True,
        initializer_range=0.04,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def _tokens(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[torch.Tensor]:
    ids = tokenizer(list(texts), return_attention_mask=False, verbose=False)["input_ids"]
    return [torch.tensor([*row, tokenizer.eos_token_id], dtype=torch.int16) for row in ids]


def _batches(documents: list[torch.Tensor], schedule: Schedule) -> Iterator[torch.Tensor]:
    """Yield (batch, sequence) without end: each epoch joins the documents in a new order."""
    generator = torch.Generator().manual_seed(schedule.seed)
    size = schedule.batch_size * schedule.sequence_length
    stream = torch.empty(0, dtype=torch.int16)
    while True:
        order = torch.randperm(len(documents), generator=generator).tolist()
        stream = torch.cat([stream, *(documents[index] for index in order)])
        whole = len(stream) // size
        for batch in stream[: whole * size].view(whole, schedule.batch_size, -1):
            yield batch.long()
        stream = stream[whole * size :]


def _train(
    model: PreTrainedModel,
    batches: Iterator[torch.Tensor],
    schedule: Schedule,
    progress: Progress | None,
) -> None:
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]  # the norms: never decayed
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": schedule.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    model.train()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.rate(step)
        ids = next(batches)
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if progress is not None:
            progress(step + 1, float(loss.detach()))


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # safetensors writes it for its owner alone
    # Stored in 16 bits, computed in 32: whoever loads the folder without a dtype gets float32.
    config = json.loads((out / "config.json").read_text())
    config["dtype"] = "float32"
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _figures(
    out: Path, corpus: Corpus, tokens: list[torch.Tensor], schedule: Schedule
) -> dict[str, Any]:
    """Measure what was written, as a user loads it."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(out)
    held_out = text_fit(model, tokenizer, [document.text for document in corpus.held_out])
    sft = completion_fit(model, tokenizer, python_docs_rows()[::8])
    seen = schedule.steps * schedule.batch_size * schedule.sequence_length
    figures = {
        "parameters": model.num_parameters(),
        "vocabulary": len(tokenizer),
        "held_out": {"documents": len(corpus.held_out), **_rounded(held_out)},
        "python_docs": {"python": platform.python_version(), **_rounded(sft)},
        "corpus": {
            "documents": len(corpus.train),
            "tokens": sum(map(len, tokens)),
            "epochs": round(seen / sum(map(len, tokens)), 2),
            "dropped": corpus.dropped,
            "packages": corpus.packages(),
        },
        "schedule": asdict(schedule),
        "versions": _versions(),
    }
    (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
    return figures


def _rounded(fit: Fit) -> dict[str, float]:
    return {
        "bits_per_byte": round(fit.bits_per_byte, 4),
        "nats_per_token": round(fit.nats_per_token, 4),
    }


def _versions() -> dict[str, str]:
    import tokenizers
    import transformers

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
    }

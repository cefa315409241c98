"""The model card of ``nano``."""

from pathlib import Path
from typing import Any

__all__ = ["write_card"]

CARD = """\
---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
---
# nano

A Llama-shaped causal language model of {parameters:,} parameters with a byte-level BPE tokenizer
of {vocabulary:,} entries, trained from scratch on signatures and docstrings. It is the base model
that fedtune's recipes fine-tune when there is no network, and it comes in the wheel.

| | |
|---|---|
| shape | 4 layers, width 128, 4 heads, MLP 352, tied embeddings, 512 positions (RoPE) |
| stored | float16 safetensors; `config.json` asks for float32, which is how it was trained |
| trained | {steps:,} steps of {batch_size} x {sequence_length} tokens, {epochs} epochs |
| optimizer | AdamW, peak rate {learning_rate}, warm-up and cosine, seed {seed} |
| **held out**: {held_out_documents:,} documents of its corpus | **{held_out_fit}** |
| `python-docs` before fine-tuning, every 8th row, Python {python} | {sft_fit} |

Rebuild it, in {minutes:.0f} minutes on one thread where these figures were taken
({versions}):

    fedtune nano build DIR --steps {steps}

## The corpus

{documents:,} documents, {tokens:,} tokens: the docstring of each function, method and class in
the source files of the Python packages installed beside fedtune, behind its module and signature,
whole paragraphs up to 500 characters. Sources are parsed, never imported. One file in 50 is held
out. A package gives at most 6,000 documents.
A paragraph is kept once in the whole corpus, but near-copies between files of one package stay, so
the held-out figure flatters; `python-docs` is the harder test.

**The standard library is not in it**, for that is what `python-docs` fine-tunes on. Back-ports
and vendored copies are left out by name; every paragraph that equals one of the standard
library's docstrings but for case and white space is dropped, and so is every document that shares
10 words in a row with one of them. What this dropped, and what repetition did:

{dropped}

Documents per package: {packages}.

## What it is not

It has the grammar of a docstring and the words of a few Python packages, and knows nothing: its
sentences are well-formed and mostly untrue. It follows no instruction; the chat template (roles as
plain text) exists so that every trainer runs. It is for tests, tutorials and experiments on
federated training, and for no other use. Nothing was done about bias or unsafe text beyond the
choice of the corpus.

## Licence

Weights and tokenizer: Apache-2.0, like fedtune. They were trained on docstrings of installed
open-source packages, each under its own licence (mostly MIT, BSD, Apache-2.0, PSF); no source
text is stored with the model.
"""


def write_card(out: Path, figures: dict[str, Any], *, wall_s: float) -> None:
    """Write ``README.md`` into a model folder.

    Args:
        out: The folder of the model.
        figures: What ``build`` measured.
        wall_s: How long the build took.
    """
    corpus, held_out, sft = figures["corpus"], figures["held_out"], figures["python_docs"]
    text = CARD.format(
        parameters=figures["parameters"],
        vocabulary=figures["vocabulary"],
        epochs=corpus["epochs"],
        held_out_documents=held_out["documents"],
        held_out_fit=_fit(held_out),
        python=sft["python"],
        sft_fit=_fit(sft),
        minutes=wall_s / 60,
        versions=", ".join(f"{name} {version}" for name, version in figures["versions"].items()),
        documents=corpus["documents"],
        tokens=corpus["tokens"],
        dropped="\n".join(f"- {what}: {count:,}" for what, count in corpus["dropped"].items()),
        packages=", ".join(f"{name} {count:,}" for name, count in corpus["packages"].items()),
        **{key: figures["schedule"][key] for key in SCHEDULE_KEYS},
    )
    (out / "README.md").write_text(text)


def _fit(figures: dict[str, Any]) -> str:
    per_byte, per_token = figures["bits_per_byte"], figures["nats_per_token"]
    return f"{per_byte:.3f} bits per byte ({per_token:.3f} nats per token)"


SCHEDULE_KEYS = ("steps", "batch_size", "sequence_length", "learning_rate", "seed")

"""Melt an adapter into its base: a plain Hugging Face model folder."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree

from fedtune.adapters import lora
from fedtune.adapters.folder import CONFIG
from fedtune.durable import put_in_place
from fedtune.recipe import Model
from fedtune.training.base import load_base


def merge_adapter(adapter: Path, base: Model, out: Path) -> None:
    """Write base + adapter, with the tokenizer, to a folder that transformers loads by itself.

    A reward model becomes a sequence classifier with its score head, any other a causal LM. In
    float32, whatever the recipe computes in: most of a small adapter would be rounded away where
    it is added to a weight in bfloat16.

    Raises:
        FileExistsError: If ``out`` already holds something.
        FileNotFoundError: If the base is not there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; name another folder")
    config = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    loaded = load_base(
        base.model_copy(update={"dtype": "float32", "load_in_4bit": False}),
        peft_type=config.get("task_type") or "CAUSAL_LM",
    )
    merged = lora.merge(loaded.model, adapter)
    unfinished = out.with_name(f".{out.name}.tmp")
    rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    merged.save_pretrained(unfinished)
    loaded.tokenizer.save_pretrained(unfinished)
    if out.exists():
        out.rmdir()
    put_in_place(unfinished, out)

"""Melt an adapter into its base: a plain Hugging Face model folder."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import rmtree

from fedtune.adapters import merging
from fedtune.adapters.folder import CONFIG
from fedtune.adapters.logits import check_logits, some_logits
from fedtune.durable import put_in_place
from fedtune.recipe import Model
from fedtune.training.base import load_base


def merge_adapter(adapter: Path, base: Model, out: Path) -> None:
    """Write base + adapter, with the tokenizer, to a folder that transformers loads by itself.

    A reward model becomes a sequence classifier with its score head, any other a causal LM. In
    float32, whatever the recipe computes in: most of a small adapter would be rounded away where
    it is added to a weight in bfloat16.

    What was written is loaded once more, and its logits are those of base and adapter, or no folder
    is left. That costs a second load, and four models' logits of 32 tokens.

    Raises:
        FileExistsError: If ``out`` already holds something.
        FileNotFoundError: If the base is not there.
        ValueError: If the merged model is another one than base and adapter.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is not empty; name another folder")
    kind = json.loads((adapter / CONFIG).read_text(encoding="utf-8")).get("task_type")
    plain = {"dtype": "float32", "load_in_4bit": False, "attn_implementation": None}
    section = base.model_copy(update=plain)
    loaded = load_base(section, peft_type=kind or "CAUSAL_LM")
    merged, rows = merging.merge(loaded.model, adapter)
    unfinished = out.with_name(f".{out.name}.tmp")
    rmtree(unfinished, ignore_errors=True)
    try:
        unfinished.mkdir(parents=True)
        merged.save_pretrained(unfinished)
        loaded.tokenizer.save_pretrained(unfinished)
        expected = some_logits(merged, rows)
        del merged, loaded
        written = section.model_copy(update={"name_or_path": str(unfinished), "revision": None})
        again = load_base(written, peft_type=kind or "CAUSAL_LM")
        what = "what was written of the merged model"
        check_logits(some_logits(again.model, rows), expected, what)
    except BaseException:
        rmtree(unfinished, ignore_errors=True)
        raise
    if out.exists():
        out.rmdir()
    put_in_place(unfinished, out)

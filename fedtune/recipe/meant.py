"""Which key was meant: by the names that other tools give it, by a part of it, by its letters."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

ALIASES: Mapping[str, tuple[str, ...]] = {
    "alpha": ("lora_alpha",),
    "attackers": ("num_attackers",),
    "batch_size": ("per_device_train_batch_size", "batch_size"),
    "beta1": ("adam_beta1",),
    "beta2": ("adam_beta2",),
    "bs": ("per_device_train_batch_size", "batch_size"),
    "byzantine": ("f",),
    "clients": ("num_clients",),
    "dataset": ("source", "data"),
    "dropout": ("lora_dropout",),
    "epochs": ("local_epochs", "local_steps", "num_train_epochs"),
    "file": ("source", "data_files"),
    "grad_accum": ("gradient_accumulation_steps",),
    "grad_clip": ("max_grad_norm",),
    "lr": ("learning_rate", "lr"),
    "lr_scheduler": ("lr_scheduler_type",),
    "malicious": ("num_attackers", "f"),
    "max_len": ("max_length",),
    "max_seq_length": ("max_length",),
    "max_seq_len": ("max_length",),
    "micro_batch_size": ("per_device_train_batch_size",),
    "model_name": ("name_or_path",),
    "model_name_or_path": ("name_or_path",),
    "modules": ("target_modules",),
    "name": ("name_or_path", "source", "name"),
    "num_byzantine": ("f",),
    "num_epochs": ("local_epochs", "local_steps", "num_train_epochs"),
    "optimizer": ("optim",),
    "path": ("source", "name_or_path"),
    "quantization": ("load_in_4bit",),
    "rank": ("r",),
    "rounds": ("num_rounds",),
    "rule": ("name",),
    "scheduler": ("lr_scheduler_type",),
    "seq_length": ("max_length",),
    "steps": ("local_steps",),
    "targets": ("target_modules",),
    "test_size": ("test_fraction",),
    "threads": ("threads_per_client",),
    "timeout": ("round_timeout_s",),
    "train_batch_size": ("per_device_train_batch_size",),
    "warmup": ("warmup_steps",),
    "warmup_ratio": ("warmup_steps",),
    "wd": ("weight_decay",),
}
"""What other tools call a key: the keys that it may be here, the likeliest first."""


def meant(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Which of ``known`` a word may have meant; empty if none is near.

    Args:
        word: Not among them.
        known: Names, perhaps dotted.
        cutoff: How near letters must be, from 0 to 1, where nothing else tells.
    """
    names = sorted(known)
    plain = word.lower().replace("-", "_")
    if found := next((each for each in ALIASES.get(plain, ()) if each in names), ""):
        return found
    if len(with_it := [each for each in names if plain in each.split("_")]) == 1:
        return with_it[0]
    return next(iter(difflib.get_close_matches(word, names, n=1, cutoff=cutoff)), "")


def number_in_quotes(value: object) -> str:
    """The number that a text is, as it is to be written; empty if it is none.

    Args:
        value: As YAML has it.
    """
    try:
        float(value if isinstance(value, str) else "no")
    except ValueError:
        return ""
    return str(value).strip()


def refuse_quoted(options: Mapping[str, object], known: Mapping[str, Any]) -> None:
    """Refuse an option that is a number in quotes where a number is needed.

    Args:
        options: As given.
        known: By name what has a ``default``, as rules and attacks describe their options.

    Raises:
        ValueError: Naming the option, and what to write.
    """
    for key, value in options.items():
        is_number = isinstance(getattr(known.get(key), "default", None), int | float)
        if is_number and (number := number_in_quotes(value)):
            raise ValueError(f"{key} needs a number: got the text {value!r}; write {number}")

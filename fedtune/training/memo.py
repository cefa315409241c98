"""Client-rounds remembered on disk: many cells of a bench begin with the same ones.

What a client learns in a round is a function of its anchor, its rows, the recipe's training
sections, the code and torch, bit for bit. So cells that differ in attack or rule share the first
round, and all those in which the same replies are refused share every round.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MOST = 4000  # entries; at the size of nano's adapter about a gigabyte
_memos: list[Memo] = []


class Memo:
    """Deltas by key in a folder; the oldest go when there are too many."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def recall(self, key: str) -> tuple[Tensor, float, dict[str, float]] | None:
        """The delta, the training loss and the further figures, if they are there."""
        path = self._path(key)
        try:
            stored = load_file(path)
            path.touch()
            delta, loss = stored.pop("delta"), float(stored.pop("loss"))
            return delta, loss, {name: float(value) for name, value in stored.items()}
        except (OSError, KeyError, SafetensorError):
            return None

    def store(self, key: str, delta: Tensor, loss: float, figures: Mapping[str, float]) -> None:
        """Write all of it or nothing: several processes share the folder."""
        path = self._path(key)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        numbers = {"loss": loss, **figures}
        tensors = {name: torch.tensor(each, dtype=torch.float64) for name, each in numbers.items()}
        tensors["delta"] = delta.contiguous()
        save_file(tensors, unfinished)
        unfinished.replace(path)
        entries = list(self._folder.glob("*.safetensors"))
        if len(entries) > MOST:
            by_age = sorted(entries, key=_age)
            for old in by_age[: MOST // 10]:
                old.unlink(missing_ok=True)

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.safetensors"


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # another process was first
        return 0.0


@contextmanager
def remembering(folder: Path) -> Iterator[None]:
    """Recall and store the client-rounds of this process in a folder."""
    _memos.append(Memo(folder))
    try:
        yield
    finally:
        _memos.pop()


def current() -> Memo | None:
    """The memo in force, if any."""
    return _memos[-1] if _memos else None


def key_of(facts: str, anchor: Tensor, client: int | None, round_: int, poison: str) -> str:
    """Hash of everything that decides on a client-round."""
    digest = hashlib.sha256("\n".join((facts, str(client), str(round_), poison)).encode())
    digest.update(anchor.contiguous().numpy().tobytes())
    return digest.hexdigest()

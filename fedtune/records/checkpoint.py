"""Everything that a run needs to go on, saved whole after each round."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedtune.durable import make_folder, put_in_place

TENSORS, FACTS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The server's state after a round.

    No generator's state is in it: every random choice is derived from the seed, the round and
    the client. Nor a data cursor: the same holds for the rows.

    Attributes:
        round: The last finished round; 0 before the first.
        anchor: The global adapter, float32, shape (d,).
        outer: The outer optimizer's tensors.
        rule: The aggregation rule's tensors.
        attack: What simulated attackers remember.
        metrics_bytes: Size of metrics.jsonl when the round was recorded.
        layout_hash: Of names and shapes of the adapter.
    """

    round: int
    anchor: Tensor
    outer: dict[str, Tensor]
    rule: dict[str, Tensor]
    metrics_bytes: int
    layout_hash: str
    attack: dict[str, Tensor] = field(default_factory=dict)
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash anchor and states into the revision."""
        digest = hashlib.sha256(self.layout_hash.encode())
        for name, tensor in sorted(self._tensors().items()):
            digest.update(name.encode())
            digest.update(str(tensor.dtype).encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        object.__setattr__(self, "revision", digest.hexdigest())

    def _tensors(self) -> dict[str, Tensor]:
        return {
            "anchor": self.anchor,
            **{f"outer/{name}": tensor for name, tensor in self.outer.items()},
            **{f"rule/{name}": tensor for name, tensor in self.rule.items()},
            **{f"attack/{name}": tensor for name, tensor in self.attack.items()},
        }

    def _facts(self) -> dict[str, str | int]:
        """What stands beside the tensors; the seal tells a changed number, as the revision does.

        Neither has a key: they find damage, and not who writes both anew.
        """
        facts: dict[str, str | int] = {
            "round": self.round,
            "metrics_bytes": self.metrics_bytes,
            "layout_hash": self.layout_hash,
            "revision": self.revision,
        }
        seal = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return {**facts, "seal": seal}

    def save(self, root: Path, *, keep: int) -> None:
        """Write ``root/round-NNNN`` in one step, and drop all but the newest ``keep``."""
        make_folder(root)
        final, unfinished = root / f"round-{self.round:04d}", root / f".round-{self.round:04d}.tmp"
        rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        tensors = {name: tensor.contiguous() for name, tensor in self._tensors().items()}
        save_file(tensors, unfinished / TENSORS)
        (unfinished / FACTS).write_text(json.dumps(self._facts(), indent=2), encoding="utf-8")
        rmtree(final, ignore_errors=True)
        put_in_place(unfinished, final)
        for old in _folders(root)[:-keep]:
            rmtree(old)


def load_latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose content matches its revision; None if there is none.

    Raises:
        ValueError: If there are checkpoints, and every one of them is damaged.
    """
    folders = _folders(root)
    for folder in reversed(folders):
        checkpoint = _load(folder)
        if checkpoint is not None:
            return checkpoint
    if folders:
        raise ValueError(f"{root}: all {len(folders)} checkpoints are damaged; start the run anew")
    return None


def _load(folder: Path) -> Checkpoint | None:
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        tensors = load_file(folder / TENSORS)
        loaded = Checkpoint(
            round=int(facts["round"]),
            anchor=tensors["anchor"],
            outer=_under("outer/", tensors),
            rule=_under("rule/", tensors),
            attack=_under("attack/", tensors),
            metrics_bytes=int(facts["metrics_bytes"]),
            layout_hash=str(facts["layout_hash"]),
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
    return loaded if loaded._facts() == facts else None


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _folders(root: Path) -> list[Path]:
    # By number: as text, round-10000 comes before round-9999, and would go as the oldest.
    numbered = [
        (int(folder.name.removeprefix("round-")), folder)
        for folder in root.glob("round-*")
        if folder.is_dir() and folder.name.removeprefix("round-").isdecimal()
    ]
    return [folder for _, folder in sorted(numbered)]

"""Everything that a run needs to go on, saved whole after each round."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

import torch
from torch import Tensor

from fedtune.adapters.tensor_files import read_tensors, write_tensors
from fedtune.durable import make_folder, put_in_place, read_whole

TENSORS, FACTS = "state.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """The server's state after a round.

    No generator's state is in it: every random choice is derived from the seed, the round and
    the client. Nor a data cursor: the same holds for the rows.

    Attributes:
        round: The last finished round; 0 before the first.
        state: The sum of the state dicts of all that remembers: the global adapter as ``anchor``,
            float32, shape (d,); the tensors of the optimizer as ``outer/...``, of rule and defence
            as ``rule/...``, of simulated attackers as ``attack/...``.
        metrics_bytes: Size of metrics.jsonl when the round was recorded.
        layout_hash: Of names and shapes of the adapter.
    """

    round: int
    state: dict[str, Tensor]
    metrics_bytes: int
    layout_hash: str
    revision: str = field(init=False)

    def __post_init__(self) -> None:
        """Hash the state into the revision."""
        if "anchor" not in self.state:
            raise ValueError(f"a checkpoint needs the anchor: got {sorted(self.state)[:4]}")
        digest = hashlib.sha256(self.layout_hash.encode())
        for name, tensor in sorted(self.state.items()):
            digest.update(name.encode())
            digest.update(str(tensor.dtype).encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        object.__setattr__(self, "revision", digest.hexdigest())

    @property
    def anchor(self) -> Tensor:
        """The global adapter, float32, shape (d,)."""
        return self.state["anchor"]

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
        tensors = {name: tensor.contiguous() for name, tensor in self.state.items()}
        write_tensors(tensors, unfinished / TENSORS)
        (unfinished / FACTS).write_text(json.dumps(self._facts(), indent=2), encoding="utf-8")
        rmtree(final, ignore_errors=True)
        put_in_place(unfinished, final)
        for old in _folders(root)[:-keep]:
            rmtree(old)


def load_latest(root: Path) -> Checkpoint | None:
    """The newest checkpoint whose content matches its revision and name; None if there is none.

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
        facts = json.loads(read_whole(folder / FACTS))
        loaded = Checkpoint(
            round=int(facts["round"]),
            state=read_tensors(folder / TENSORS, floats=False),
            metrics_bytes=int(facts["metrics_bytes"]),
            layout_hash=str(facts["layout_hash"]),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    same = loaded._facts() == facts and loaded.round == _number(folder)
    return loaded if same else None


def _folders(root: Path) -> list[Path]:
    # By number: as text, round-10000 comes before round-9999, and would go as the oldest.
    found = [
        folder
        for folder in root.glob("round-*")
        if folder.is_dir() and folder.name.removeprefix("round-").isdecimal()
    ]
    return sorted(found, key=_number)


def _number(folder: Path) -> int:
    return int(folder.name.removeprefix("round-"))

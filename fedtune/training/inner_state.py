"""A client's optimizer state between its rounds, on the client's own disk."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from shutil import rmtree

from fedtune.adapters.tensor_files import read_tensors, write_tensors
from fedtune.durable import make_folder, put_in_place
from fedtune.training.tasks.task import OptimizerState

MOST_RUNS = 4  # on a node, whose disk is its owner's


def folder_of(run: str, root: Path) -> Path:
    """Where the states of one run lie on a node, apart from every other run's.

    A run that was over would else leave its own to the next, and have the next one's dropped as the
    oldest. Of runs that are not heard of any more the states go.

    Args:
        run: What names it, in a server's words: no part of a path.
        root: The node's folder for all of them.
    """
    folder = root / hashlib.sha256(run.encode()).hexdigest()[:32]
    make_folder(folder)
    os.utime(folder)
    runs = sorted((each for each in root.iterdir() if each.is_dir()), key=_age, reverse=True)
    for old in [each for each in runs if each != folder][MOST_RUNS - 1 :]:
        rmtree(old, ignore_errors=True)
    return folder


def _age(folder: Path) -> float:
    return folder.stat().st_mtime


def save(state: OptimizerState, folder: Path, *, round_: int, keep: int) -> None:
    """Keep the state that a round ended with, atomically; all but the last ``keep`` go.

    A run that is resumed at its oldest checkpoint needs what came before the round after it: one
    more than there are checkpoints, as the last round may have ended here and not on the server.
    """
    make_folder(folder)
    flat = {f"{i}/{key}": value.cpu() for i, part in state.items() for key, value in part.items()}
    unfinished = folder / f".round-{round_:06d}.tmp"
    write_tensors(flat, unfinished)
    put_in_place(unfinished, folder / f"round-{round_:06d}.safetensors")
    for old in sorted(folder.glob("round-*.safetensors"))[:-keep]:
        old.unlink()


def load(folder: Path, *, before: int) -> OptimizerState | None:
    """The newest state from a round before ``before``; None if the client has trained in none."""
    files = sorted(folder.glob("round-*.safetensors"))
    earlier = [file for file in files if int(file.stem.split("-")[1]) < before]
    if not earlier:
        return None
    state: OptimizerState = {}
    for name, value in read_tensors(earlier[-1], floats=False).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    return state

"""A client's optimizer state between its rounds, on the client's own disk."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file

from fedtune.durable import make_folder, put_in_place
from fedtune.training.tasks.task import OptimizerState


def save(state: OptimizerState, folder: Path, *, round_: int, keep: int) -> None:
    """Keep the state that a round ended with, atomically; all but the last ``keep`` go.

    A run that is resumed at its oldest checkpoint needs what came before the round after it: one
    more than there are checkpoints, as the last round may have ended here and not on the server.
    """
    make_folder(folder)
    flat = {f"{i}/{key}": value.cpu() for i, part in state.items() for key, value in part.items()}
    unfinished = folder / f".round-{round_:06d}.tmp"
    save_file(flat, unfinished)
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
    for name, value in load_file(earlier[-1]).items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    return state

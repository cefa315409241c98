"""Replies that stay in the run's folder as they were hashed, for who recomputes the rounds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.adapters.tensor_files import read_tensors, write_tensors
from fedtune.durable import make_folder, put_in_place, read_bytes
from fedtune.messages.message import RecordDict
from fedtune.messages.packing import pack, unpack

KEPT = "kept_replies"  # in a run's folder
MAX_BYTES = 2**33  # of a file in it


class KeptReplies:
    """A folder for each round: who sent what in it, and the anchor that it led to.

    Args:
        folder: ``kept_replies`` of a run, or a copy of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, round_: int, client: int, content: RecordDict) -> None:
        """Keep a reply: every bit of it, packed as it travels."""
        path = self._reply(round_, client)
        make_folder(path.parent)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(pack(content))
        put_in_place(unfinished, path)

    def reply(self, round_: int, client: int, *, most: int = MAX_BYTES) -> RecordDict:
        """A reply that was kept; a stranger may have written it.

        Args:
            round_: Counted from 1.
            client: Whose it is.
            most: Bytes that it may have.

        Raises:
            OSError: If it is not there, or is no plain file.
            ValueError: If it is none, or longer.
        """
        path = self._reply(round_, client)
        content = read_bytes(path, most=most)
        try:
            return unpack(content)
        except Exception as error:  # whatever a hostile file manages to raise
            raise ValueError(f"{path} is no reply: {type(error).__name__}") from error

    def put_anchor(self, round_: int, row: Tensor, layout: Layout) -> None:
        """Keep the adapter that a round led to; round 0: the one that the run began with."""
        path = self._anchor(round_)
        make_folder(path.parent)
        unfinished = path.with_suffix(".tmp")
        tensors = {name: each.clone() for name, each in layout.unflatten(row).items()}
        write_tensors(tensors, unfinished)
        put_in_place(unfinished, path)

    def anchor(self, round_: int) -> tuple[Tensor, Layout]:
        """The adapter that a round led to, and its layout.

        Raises:
            OSError: If it is not there, or is no plain file.
            ValueError: If it is none, or a value of it is not finite.
        """
        path = self._anchor(round_)
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise FileNotFoundError(f"{path} needs to be a file of at most {MAX_BYTES} bytes")
        tensors = read_tensors(path)
        layout = Layout.of(tensors)
        row = layout.flatten(tensors)
        if not torch.isfinite(row).all():
            raise ValueError(f"round {round_}: its anchor holds a value that is not finite")
        return row, layout

    def _reply(self, round_: int, client: int) -> Path:
        return self.folder / f"round-{round_:04d}" / f"client-{client:06d}.reply"

    def _anchor(self, round_: int) -> Path:
        return self.folder / f"round-{round_:04d}" / "anchor.safetensors"

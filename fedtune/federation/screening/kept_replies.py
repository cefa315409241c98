"""Replies that stay in the run's folder as they were hashed, for who recomputes the rounds."""

from __future__ import annotations

from pathlib import Path

from flwr.app import RecordDict
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.durable import make_folder, put_in_place

KEPT = "kept_replies"  # in a run's folder


class KeptReplies:
    """A folder for each round: who sent what in it, and the anchor that it led to.

    Args:
        folder: ``kept_replies`` of a run, or a copy of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, round_: int, client: int, content: RecordDict) -> None:
        """Keep a reply: every bit of it, in Flower's own form."""
        path = self._reply(round_, client)
        make_folder(path.parent)
        unfinished = path.with_suffix(".tmp")
        unfinished.write_bytes(recorddict_to_proto(content).SerializeToString())
        put_in_place(unfinished, path)

    def reply(self, round_: int, client: int) -> RecordDict:
        """A reply that was kept; a stranger may have written it.

        Raises:
            OSError: If it is not there.
            ValueError: If it is none.
        """
        path = self._reply(round_, client)
        try:
            return recorddict_from_proto(RecordDictProto.FromString(path.read_bytes()))
        except OSError:
            raise
        except Exception as error:  # whatever a hostile file manages to raise
            raise ValueError(f"{path} is no reply: {type(error).__name__}") from error

    def put_anchor(self, round_: int, row: Tensor, layout: Layout) -> None:
        """Keep the adapter that a round led to; round 0: the one that the run began with."""
        path = self._anchor(round_)
        make_folder(path.parent)
        unfinished = path.with_suffix(".tmp")
        save_file({name: each.clone() for name, each in layout.unflatten(row).items()}, unfinished)
        put_in_place(unfinished, path)

    def anchor(self, round_: int) -> tuple[Tensor, Layout]:
        """The adapter that a round led to, and its layout.

        Raises:
            OSError: If it is not there.
            ValueError: If it is none.
        """
        path = self._anchor(round_)
        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path} is no adapter: {error}") from error
        layout = Layout.of(tensors)
        return layout.flatten(tensors), layout

    def _reply(self, round_: int, client: int) -> Path:
        return self.folder / f"round-{round_:04d}" / f"client-{client:06d}.reply"

    def _anchor(self, round_: int) -> Path:
        return self.folder / f"round-{round_:04d}" / "anchor.safetensors"

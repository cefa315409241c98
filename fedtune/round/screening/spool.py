"""The good replies of a round on disk, one file a client: the server never holds them all."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable
from pathlib import Path
from shutil import rmtree

from safetensors.torch import load_file
from torch import Tensor

from aggregators import FileRows
from fedtune.adapters.tensor_files import write_tensors

_NAME = "update"


class Spool:
    """Rows by client, written as they come and read block by block.

    Args:
        folder: Where to; emptied at the start of each round. None: a temporary one.
    """

    def __init__(self, folder: Path | None = None) -> None:
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="fedtune-"))
            weakref.finalize(self, rmtree, folder, ignore_errors=True)
        self._folder = folder
        self._clients: set[int] = set()

    def __contains__(self, client: int) -> bool:
        return client in self._clients

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def clients(self) -> list[int]:
        """Whose rows are there, in ascending order."""
        return sorted(self._clients)

    def empty(self) -> None:
        """Drop all rows, also those that a killed process has left."""
        self._clients.clear()
        rmtree(self._folder, ignore_errors=True)

    def put(self, client: int, row: Tensor) -> None:
        """Write a client's row, in place of the one before, if any.

        Raises:
            OSError: If there is no room for it.
        """
        path = self._path(client)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".tmp")
        write_tensors({_NAME: row.contiguous()}, unfinished)
        unfinished.replace(path)  # the old file may still be mapped: never write into it
        self._clients.add(client)

    def drop(self, client: int) -> None:
        """Forget a client's row."""
        self._clients.discard(client)

    def row(self, client: int) -> Tensor:
        """One client's row, mapped from its file: pages come and go as the kernel likes."""
        return load_file(self._path(client))[_NAME]

    def rows(self, clients: Iterable[int]) -> FileRows:
        """Rows of one length as the engine reads them, block by block."""
        return FileRows([self._path(client) for client in clients])

    def _path(self, client: int) -> Path:
        return self._folder / f"client-{client:06d}.safetensors"

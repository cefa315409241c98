"""Rows that stay on disk: each client's update is a safetensors file.

Files are read by position into a buffer, never mapped: a mapped page would count as resident
memory for as long as the kernel likes.
"""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard, overload

import torch

if TYPE_CHECKING:
    from torch import Tensor

_DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}  # torch's
_LONGEST_HEADER_BYTES = 100_000_000  # the format's own bound


@dataclass(frozen=True, slots=True)
class _File:
    """The location of one row: its file and the byte at which each of its tensors starts."""

    path: Path
    starts: tuple[int, ...]
    stamp: tuple[int, int, int]


class FileRows(Sequence["Tensor"]):
    """One safetensors file per client, as rows; only a stretch of columns is ever in memory.

    The files must not change while they are rows; one that did is refused at the next read.

    Args:
        paths: One file per client, in the clients' order.
        names: The tensors that make up a row, laid end to end in this order. None: the file's
            only tensor.

    Raises:
        ValueError: If there is no file, a file is no safetensors file, lacks one of the tensors,
            or differs from the first one in dtype or shapes.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike[str]], names: Sequence[str] | None = None
    ) -> None:
        if not paths:
            raise ValueError("FileRows needs a file per client: got none; give at least one path")
        self._files: list[_File] = []
        shapes: list[tuple[int, ...]] = []
        for path in map(Path, paths):
            file, dtype, found = _inspect(path, names)
            if not self._files:
                self.dtype, shapes = dtype, found
            elif (dtype, found) != (self.dtype, shapes):
                raise ValueError(
                    f"{path} needs the dtype and shapes of {paths[0]}, {self.dtype} {shapes}: got "
                    f"{dtype} {found}; every client sends the same tensors"
                )
            self._files.append(file)
        self._firsts = [0]  # the column at which each tensor starts, and the end
        for shape in shapes:
            self._firsts.append(self._firsts[-1] + math.prod(shape))
        self.num_columns = self._firsts[-1]

    def __len__(self) -> int:
        return len(self._files)

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tensor]: ...
    def __getitem__(self, index: int | slice) -> Tensor | list[Tensor]:
        """Read whole rows into memory."""
        chosen = range(len(self))[index]
        if isinstance(chosen, range):
            return [self[i] for i in chosen]
        row = torch.empty(1, self.num_columns, dtype=self.dtype)
        return self.read(slice(0, self.num_columns), [chosen], row)[0]

    def read(self, columns: slice, which: Sequence[int], out: Tensor) -> Tensor:
        """Read some columns of some rows.

        Args:
            columns: Start and stop, no step.
            which: The rows' indices, k of them.
            out: Where to, contiguous, shape (k, stop - start), of the rows' dtype, on the CPU.

        Returns:
            ``out``.

        Raises:
            ValueError: If a file has changed since the start.
        """
        size = self.dtype.itemsize
        raw = out.view(torch.uint8).numpy()
        for line, index in zip(raw, which, strict=True):
            file, view = self._files[index], memoryview(line)
            with open(file.path, "rb", buffering=0) as handle:
                if _stamp(handle) != file.stamp:
                    raise ValueError(f"{file.path} has changed while it was read; keep it as it is")
                for k, start, stop in self._pieces(columns):
                    handle.seek(file.starts[k] + (start - self._firsts[k]) * size)
                    wanted = view[(start - columns.start) * size : (stop - columns.start) * size]
                    _read_fully(handle, wanted, file.path)
        return out

    def _pieces(self, columns: slice) -> Iterator[tuple[int, int, int]]:
        """Cut columns at the tensors' ends: (tensor, first column, end)."""
        k, start = bisect_right(self._firsts, columns.start) - 1, columns.start
        while start < columns.stop:
            stop = min(columns.stop, self._firsts[k + 1])
            if stop > start:
                yield k, start, stop
            k, start = k + 1, stop


def _read_fully(handle: FileIO, wanted: memoryview, path: Path) -> None:
    while wanted:
        got = handle.readinto(wanted)
        if not got:
            raise ValueError(f"{path} ends early; write the file again")
        wanted = wanted[got:]


def _stamp(handle: FileIO) -> tuple[int, int, int]:
    status = os.fstat(handle.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


def _inspect(
    path: Path, names: Sequence[str] | None
) -> tuple[_File, torch.dtype, list[tuple[int, ...]]]:
    """Read a file's header: where its tensors are, their one dtype, their shapes."""
    with open(path, "rb", buffering=0) as handle:
        stamp = _stamp(handle)
        header, base = _header(handle, stamp[1], path)
    known = sorted(name for name in header if name != "__metadata__")
    chosen = names if names is not None else known
    if not chosen or any(name not in known for name in chosen) or (not names and len(known) > 1):
        wanted = "one tensor" if names is None else f"the tensors {list(chosen)}"
        raise ValueError(f"{path} needs {wanted}: got {known[:8]}; name those that make up a row")
    starts, shapes, dtypes = [], [], set()
    for name in chosen:
        dtype, shape, start = _entry(header[name], stamp[1] - base, f"{path}: {name}")
        starts.append(base + start)
        shapes.append(shape)
        dtypes.add(dtype)
    if len(dtypes) > 1:
        raise ValueError(f"{path} needs one dtype: got {sorted(map(str, dtypes))}; convert it")
    return _File(path, tuple(starts), stamp), dtypes.pop(), shapes


def _header(handle: FileIO, size: int, path: Path) -> tuple[dict[str, object], int]:
    """Parse eight bytes of length and that much JSON; return it and where the data starts."""
    length = int.from_bytes(handle.read(8) or b"", "little")
    try:
        if not 2 <= length <= min(_LONGEST_HEADER_BYTES, size - 8):
            raise ValueError("no room for the header")
        text = bytearray(length)
        _read_fully(handle, memoryview(text), path)
        header = json.loads(text.decode())
        if not isinstance(header, dict):
            raise ValueError("the header is no mapping")
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{path} needs to be a safetensors file: got {size} bytes that are none ({error}); "
            "write it again"
        ) from None
    return header, 8 + length


def _entry(entry: object, room: int, owner: str) -> tuple[torch.dtype, tuple[int, ...], int]:
    """Check one tensor's entry against the file: its dtype, shape and first byte."""
    fields = entry if isinstance(entry, dict) else {}
    name, shape = _DTYPES.get(str(fields.get("dtype"))), fields.get("shape")
    bounds = fields.get("data_offsets")
    if name is None:
        raise ValueError(
            f"{owner} needs a dtype of {', '.join(_DTYPES)}: got {fields.get('dtype')!r}; convert"
        )
    dtype: torch.dtype = getattr(torch, name)
    if _are_counts(shape) and _are_counts(bounds) and len(bounds) == 2:
        start, end = bounds
        if end <= room and end - start == math.prod(shape) * dtype.itemsize:
            return dtype, tuple(shape), start
    raise ValueError(
        f"{owner} needs a shape that fills its bytes: got shape {shape!r} in bytes {bounds!r} of "
        f"{room}; write the file again"
    )


def _are_counts(values: object) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(type(v) is int and v >= 0 for v in values)

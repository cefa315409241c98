"""Tensors in files: read as a stranger may have written them, and written or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

MAX_HEADER_BYTES = 2**23  # of names and shapes; an adapter of 10,000 tensors has a megabyte
MAX_TENSORS = 2**16
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def read_tensors(path: Path, *, floats: bool = True) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Its own reader takes headers of 100 MB: for 1,500,000 empty tensors 2 GB of memory.

    Args:
        path: Of the file; a link is followed.
        floats: Whether nothing but floating-point numbers may be in it.

    Raises:
        FileNotFoundError: If there is none, or it is no plain file.
        ValueError: If it is damaged, has more tensors than any adapter, or other numbers.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} needs to be a file")
    _check_header(path)
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}); bring back the whole file") from error
    for name, tensor in tensors.items():
        if floats and tensor.dtype not in FLOATS:
            raise ValueError(f"{path}: {name[:80]!r} needs floating-point numbers: {tensor.dtype}")
    return tensors


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write a safetensors file.

    Raises:
        OSError: If it cannot be written: the disk, or a quota, is full.
    """
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(f"{path} could not be written: {error}") from error


def _check_header(path: Path) -> None:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > MAX_HEADER_BYTES:
            raise ValueError(
                f"{path} is damaged: its header needs at most {MAX_HEADER_BYTES} bytes"
            )
        # JSON can write a key in many ways, and a brace in one: one for the header, one a tensor.
        if stream.read(length).count(b"{") > MAX_TENSORS + 1:
            raise ValueError(f"{path} needs at most {MAX_TENSORS} tensors")

"""Files and folders that are there whole, or not at all, also after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


def make_folder(path: Path, *, mode: int = 0o777) -> None:
    """Make a folder and those above it, each on disk before this returns.

    Args:
        path: The folder. One that is there stays as it is.
        mode: Of the folder, if it is new; those above it have the usual one.
    """
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(mode=mode, exist_ok=True)
    sync(path.parent)


def put_in_place(unfinished: Path, final: Path) -> None:
    """Rename a file or a folder once all of it is on disk, and have the rename there too.

    Without the first, a file system may keep the new name and lose the content. What stood at
    ``final`` is replaced if it is a file; a folder must be gone.
    """
    for path in [*unfinished.rglob("*"), unfinished]:
        sync(path)
    os.replace(unfinished, final)
    sync(final.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on disk."""
    if os.name == "nt":  # it syncs neither folders nor what is open for reading
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

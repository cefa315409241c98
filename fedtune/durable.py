"""Files and folders that are there whole, or not at all, also after a power cut."""

from __future__ import annotations

import os
import stat
from pathlib import Path

OWN = 0o600  # of a file that its owner alone may read


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


MAX_BYTES = 2**26  # of a file in a run folder, but for the metrics


def write_beside(final: Path, text: str, *, mode: int = 0o666) -> Path:
    """Write what `put_in_place` will put there into a new file beside it; that file's path.

    What stands there by that name, from a process that was killed or from a stranger who sent the
    folder, is removed. It may be a link to another file, and is not followed.
    """
    unfinished = final.with_name(f".{final.name}.tmp")
    unfinished.unlink(missing_ok=True)
    handle = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with open(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
    return unfinished


def read_whole(path: Path, *, most: int = MAX_BYTES) -> str:
    """The text of a file that a stranger may have sent: as `read_bytes`.

    Raises:
        FileNotFoundError: As there.
        ValueError: As there, or if it is no UTF-8.
    """
    return read_bytes(path, most=most).decode("utf-8")


def read_bytes(path: Path, *, most: int = MAX_BYTES) -> bytes:
    """What is in a file that a stranger may have sent: bounded, and no pipe or device.

    Args:
        path: Of the file; a link is followed.
        most: Bytes that it may have.

    Raises:
        FileNotFoundError: If there is none, or it is no plain file: to open one may never return.
        ValueError: If it is longer.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} needs to be a file")
    with path.open("rb") as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > most:
            raise ValueError(f"{path} needs at most {most} bytes; got {size}")
        return stream.read(size)  # not more: that much is set aside at once


def refuse_links(folder: Path) -> None:
    """Refuse a folder in which anything is no plain file: who goes on in it would write through it.

    Raises:
        ValueError: Naming the first.
    """
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(root, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                what = "a link" if stat.S_ISLNK(mode) else "no plain file"
                raise ValueError(
                    f"{path} is {what}: a run goes on in a folder of its own files alone; put the "
                    f"file itself there, or move the whole folder"
                )


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader finds the old one, the new one, or none, never half.

    None but its owner may read it: a run's files name folders, and people.
    """
    put_in_place(write_beside(path, text, mode=OWN), path)


def own(path: str, flags: int) -> int:
    """An opener: a file that is new is its owner's alone."""
    return os.open(path, flags, OWN)

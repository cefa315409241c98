"""Files with the right mode from the moment they exist: a key that is closed later was open."""

from __future__ import annotations

import os
from pathlib import Path

SECRET = 0o600
PUBLIC = 0o644
SCRIPT = 0o755
CLOSED_FOLDER = 0o700


def write_new(path: Path, content: bytes | str, *, mode: int = PUBLIC) -> None:
    """Write a file that must not be there yet.

    Args:
        path: In a folder that is there.
        content: Text is written as UTF-8.
        mode: What the file has at once; the process's umask may take more away.

    Raises:
        FileExistsError: If there is one, or a link.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)


def make_closed_folder(path: Path) -> None:
    """Make a folder that none but its owner can look into.

    Raises:
        FileExistsError: If it is there.
    """
    path.mkdir(mode=CLOSED_FOLDER)

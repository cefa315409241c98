"""Where a run's folder is, told to the SuperLink's process and to no node.

Flower hands a run's config to every node that asks. So the config names a file that only the
server's machine has, and the folder's path stands in that.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex

from fedtune.deployment.writing import SECRET, write_new

SERVER = "FEDTUNE_SERVER"  # the launcher's half of the deployment, for the SuperLink's processes
_NAME = re.compile(r"[0-9a-f]{32}")


@contextmanager
def told(server: Path, run: Path) -> Iterator[str]:
    """Within it a word stands for a run's folder.

    Args:
        server: The launcher's half of the deployment.
        run: The folder, absolute.
    """
    word = token_hex(16)
    path = _file(server, word)
    write_new(path, str(run), mode=SECRET)
    try:
        yield word
    finally:
        path.unlink(missing_ok=True)


def found(word: str) -> Path:
    """The folder that a word stands for; a path stands for itself.

    Raises:
        FileNotFoundError: If it stands for none.
    """
    if not _NAME.fullmatch(word):
        return Path(word)
    path = _file(Path(os.environ.get(SERVER, ".")), word)
    if not path.is_file():
        raise FileNotFoundError(f"{path} needs to name the run's folder: it is not there")
    return Path(path.read_text(encoding="utf-8"))


def _file(server: Path, word: str) -> Path:
    return server / f"run-{word}"

"""The hash of all that a model's folder brings: weights, tokenizer, chat template, configurations.

The base hash on which client and server agree covers weights and architecture alone.
"""

from __future__ import annotations

import hashlib
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path

from fedtune.training.base import PARTS, find_weights


@lru_cache(maxsize=64)  # each is hashed once, however often and in whatever order it is asked for
def hash_model(folder: Path) -> str:
    """SHA-256 over names and contents of each file that loading a model may read.

    Args:
        folder: Holds the model, as `find_here` or `find_folder` found it.

    Raises:
        FileNotFoundError: If the folder holds no weights.
    """
    weights = set(find_weights(folder))
    digest = hashlib.sha256()
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        name = file.relative_to(folder).as_posix()
        if file in weights or any(fnmatch(name, pattern) for pattern in PARTS):
            with file.open("rb") as stream:
                of_file = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{len(name)} {name} {of_file}\n".encode())
    return digest.hexdigest()

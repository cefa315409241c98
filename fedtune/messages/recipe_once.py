"""A recipe travels to each node once; later orders of the run carry its hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from fedtune.durable import put_in_place, write_beside
from fedtune.messages.message import ORDER, ConfigRecord, Message, RecordDict
from fedtune.messages.node_errors import failure

RECIPE, RECIPE_HASH = "recipe", "recipe_hash"
NOT_KEPT = "recipe-not-kept"  # of the closed list of a node's errors
MAX_RECIPE_BYTES = 2**18
MAX_KEPT = 8  # recipes in a node's folder

Recall = Callable[[str], str | None]
Keep = Callable[[str, str], None]


def shorten(order: Message) -> None:
    """Replace the recipe in an order by its hash, for a node that holds it."""
    words = order.records.config_records[ORDER]
    words[RECIPE_HASH] = hash_of(str(words.pop(RECIPE)))


def restore(order: RecordDict, recall: Recall, keep: Keep) -> None:
    """Put the recipe back into an order that carries its hash; keep one that came whole.

    Args:
        order: As it came.
        recall: The recipe that was kept under a hash.
        keep: Keeps a recipe under its hash.

    Raises:
        ValueError: If the recipe is not kept here: the server then sends it again.
    """
    words = order.config_records.get(ORDER)
    if words is None:
        return
    if RECIPE_HASH not in words:
        text = str(words.get(RECIPE, ""))
        if 0 < len(text) <= MAX_RECIPE_BYTES:
            keep(hash_of(text), text)
        return
    wanted = str(words.pop(RECIPE_HASH))
    found = recall(wanted)
    if found is None or hash_of(found) != wanted:
        raise failure(NOT_KEPT)
    words[RECIPE] = found


def restore_from_state(order: RecordDict, state: RecordDict) -> None:
    """`restore` for a client that keeps the recipe of its run in its own state."""

    def keep(hash_: str, text: str) -> None:
        state[RECIPE] = ConfigRecord({hash_: text})

    def recall(hash_: str) -> str | None:
        kept = state.config_records.get(RECIPE, ConfigRecord()).get(hash_)
        return kept if isinstance(kept, str) else None

    restore(order, recall, keep)


class KeptRecipes:
    """The newest recipes of a node, in its own folder: they outlive its worker.

    Args:
        folder: Where they lie; made when the first one comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def recall(self, hash_: str) -> str | None:
        """The recipe under a hash, if it is there."""
        path = self._path(hash_)
        if path is None or not path.is_file():
            return None
        return path.read_bytes().decode("utf-8", "replace")  # what is damaged has another hash

    def keep(self, hash_: str, text: str) -> None:
        """Write a recipe, and remove the oldest beyond `MAX_KEPT`."""
        path = self._path(hash_)
        if path is None or self.recall(hash_) == text:
            return
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        put_in_place(write_beside(path, text, mode=0o600), path)
        kept = sorted(self._folder.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for old in kept[:-MAX_KEPT]:
            old.unlink(missing_ok=True)

    def _path(self, hash_: str) -> Path | None:
        """Where a recipe lies; None for what is no hash: a server chose the word."""
        is_hash = len(hash_) == 64 and set(hash_) <= set("0123456789abcdef")
        return self._folder / f"{hash_}.json" if is_hash else None


def hash_of(recipe_json: str) -> str:
    """SHA-256 of a recipe as it travels, in hex."""
    return hashlib.sha256(recipe_json.encode()).hexdigest()

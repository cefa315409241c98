"""Which model a node's owner allows: by name, or by the hash of what is on this machine already."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedtune.messages.node_errors import NotAllowedError
from fedtune.recipe import Model
from fedtune.training.base import find_here
from fedtune.training.model_hash import hash_model

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9_][\w.-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]{0,95}")


def allowed_model(model: Model, entries: Sequence[str]) -> Model:
    """The recipe's model as this node loads it.

    By name it is the hub's, and fetched if it is not here; a revision is allowed as part of the
    name, ``owner/name@revision``. By hash it is looked for here, and nothing is fetched: the folder
    whose files were hashed stands in the place of the name.

    Args:
        model: The recipe's section.
        entries: Of ``allowed_models``.

    Raises:
        NotAllowedError: If no entry allows it. The text is the same whether it is here or not.
    """
    name, revision = model.name_or_path, model.revision
    asked = name if revision is None else f"{name}@{revision}"
    if asked in entries and "@" not in name:
        return model
    hashes = {each for each in entries if each.startswith("sha256:")}
    well_named = _NAME.fullmatch(name) and (revision is None or _REVISION.fullmatch(revision))
    if hashes and well_named:
        folder = find_here(model)
        if folder is not None and f"sha256:{hash_model(folder)}" in hashes:
            if name == "nano":
                return model
            return model.model_copy(update={"name_or_path": str(folder), "revision": None})
    at = "" if revision is None else f" at revision {revision[:40]!r}"
    raise NotAllowedError(
        f"model.name_or_path: {name[:80]!r}{at} is not in allowed_models, nor is its hash that of "
        "a model on this machine that is"
    )


def is_allowed(model: Model, entries: Sequence[str]) -> bool:
    """Whether an entry of ``allowed_models`` allows a recipe's model."""
    try:
        allowed_model(model, entries)
    except NotAllowedError:
        return False
    return True

"""`deployment.json`: where the SuperLink is, and which keys may join, in the clients' order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, field_validator

from fedtune.deployment.certificates import check_host
from fedtune.deployment.node_keys import public_key_pem
from fedtune.recipe.errors import RecipeError, explain
from fedtune.recipe.section import Section

MAX_NODES = 1000
_MAX_BYTES = 2**20  # a thousand nodes take a quarter of it


def _check_key(line: str) -> str:
    public_key_pem(line)
    return line


class Member(Section):
    """A node: its folder's name, and the key that it shows."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
    public_key: Annotated[str, Field(max_length=1000), AfterValidator(_check_key)]


class Description(Section):
    """All that is not secret of a deployment. Client number c is node number c of the list."""

    version: Literal[1] = 1
    host: Annotated[str, AfterValidator(check_host)]
    port: int = Field(ge=1, le=65_535)
    nodes: tuple[Member, ...] = Field(min_length=1, max_length=MAX_NODES)

    @field_validator("nodes")
    @classmethod
    def _nodes_differ(cls, nodes: tuple[Member, ...]) -> tuple[Member, ...]:
        first: dict[str | bytes, str] = {}
        for node in nodes:
            for what, value in (("name", node.name), ("key", public_key_pem(node.public_key))):
                if value in first:
                    raise ValueError(
                        f"needs nodes that differ: {node.name} has the {what} of {first[value]}; "
                        "give each its own, else one owner comes as two"
                    )
                first[value] = node.name
        return nodes


def read_description(path: Path) -> Description:
    """Read ``deployment.json`` strictly.

    Raises:
        RecipeError: With a line for each thing that is wrong with it.
        OSError: If it cannot be read.
    """
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise RecipeError([f"{path}: needs at most {_MAX_BYTES} bytes: got {size}"])
    try:
        raw = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_doubles)
    except ValueError as error:
        raise RecipeError([f"{path}: not readable as JSON: {error}"]) from error
    if not isinstance(raw, dict):
        raise RecipeError([f"{path}: needs an object: got {type(raw).__name__}"])
    try:
        return Description.model_validate(raw)
    except ValidationError as error:
        told = explain(error, Description)
        raise RecipeError(f"{path}: {problem}" for problem in told.problems) from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f"{key!r} is given twice")
    return dict(pairs)

"""`node.yaml`: what a node's owner brings to a federation, and what the owner allows it to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from fedtune.recipe.errors import RecipeError, explain
from fedtune.recipe.reading import read_mapping
from fedtune.recipe.section import Section

NODE_FILE = "node.yaml"
# The key of Flower's node config under which a node's processes find their folder.
FOLDER_KEY = "fedtune-node"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


def _check_model(name: str) -> str:
    if not (_HASH.fullmatch(name) if name.startswith("sha256:") else _MODEL.fullmatch(name)):
        raise ValueError(
            f"needs nano, a hub's name or sha256: and 64 hex digits: got {name!r}; "
            "a folder is allowed by the hash of its weights"
        )
    return name


AllowedModel = Annotated[str, Field(max_length=200), AfterValidator(_check_model)]


class Privacy(Section):
    """Local differential privacy of what a node sends: clipped, and noise of the node's own added.

    Each reply alone is (epsilon, delta)-private against every other reply that the node could have
    sent; r replies together are at most (r * epsilon, r * delta)-private.

    Source:
        Dwork and Roth 2014, theorem 3.22, https://doi.org/10.1561/0400000042, whose formula Flower
        uses. It is proven for epsilon below 1 alone.
    """

    clipping_norm: float = Field(gt=0, le=1e6, description="L2 norm of a delta, at most")
    epsilon: float = Field(gt=0, lt=1, description="of one reply")
    delta: float = Field(1e-6, gt=0, lt=0.1)


class NodeConfig(Section):
    """What a node's owner brings, and what a recipe may ask of the node. It never travels."""

    data: Path | None = Field(
        None, description="rows of your own, a file or a folder; null: what the recipe itself names"
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$")
    threads: int = Field(1, ge=1, le=512, strict=True, description="CPU threads of torch")
    max_local_steps: int = Field(1000, ge=1, le=1_000_000, strict=True, description="in one round")
    max_rounds: int = Field(1000, ge=1, le=100_000, strict=True, description="in one run")
    allowed_models: list[AllowedModel] = Field(
        default=["nano"], max_length=1000, description="by name, or by sha256: of the weights"
    )
    privacy: Privacy | None = Field(
        None, description="clip what this node sends and add noise; null: neither"
    )
    allow_remote_code: Literal[False] = Field(
        False, description="fixed: no code comes from a model's folder"
    )


def load_node_config(path: Path) -> NodeConfig:
    """Read a node's file.

    Args:
        path: The file, or the folder that holds it as ``node.yaml``.

    Returns:
        What stands there, with defaults for the rest; a relative ``data`` is made absolute, from
        the file's folder.

    Raises:
        RecipeError: With a line for each thing that is wrong; a wrong key with the nearest known.
    """
    path = path.expanduser().absolute()
    path = path / NODE_FILE if path.is_dir() else path
    try:
        config = NodeConfig.model_validate(read_mapping(path))
    except ValidationError as error:
        told = explain(error, NodeConfig)
        raise RecipeError(f"{path}: {problem}" for problem in told.problems) from error
    if config.data is None:
        return config
    data = path.parent / config.data.expanduser()
    if data.resolve() == path.parent.resolve():
        raise RecipeError(
            [f"{path}: data: needs rows of your own: got the folder that holds node.key; mend it"]
        )
    return config.model_copy(update={"data": data})

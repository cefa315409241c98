"""`node.yaml`: what a node's owner brings to a federation, and what the owner allows it to do."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from fedtune.recipe.data import ColumnName, Template
from fedtune.recipe.errors import RecipeError, explain
from fedtune.recipe.reading import read_mapping
from fedtune.recipe.section import Section

NODE_FILE = "node.yaml"
# The key of Flower's node config under which a node's processes find their folder.
FOLDER_KEY = "fedtune-node"
_HASH = re.compile(r"sha256:[0-9a-f]{64}")
_MODEL = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+(@[\w.-]+)?)?")


def _check_model(name: str) -> str:
    if not (_HASH.fullmatch(name) if name.startswith("sha256:") else _MODEL.fullmatch(name)):
        raise ValueError(
            f"needs nano, a hub's name or sha256: and 64 hex digits: got {name!r}; a revision is "
            "owner/name@revision; fedtune node check prints the hash of a model that is here"
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


def _limit(default: int, most: int, of: str) -> Any:  # noqa: ANN401  as pydantic's own Field
    return Field(default, ge=1, le=most, strict=True, description=of)


class NodeConfig(Section):
    """What a node's owner brings, and what a recipe may ask of the node. It never travels."""

    data: Path | None = Field(
        None, description="your rows, a file or a folder; null: the data that the recipe names"
    )
    columns: dict[ColumnName, Template] = Field(
        default_factory=dict,
        max_length=8,
        description="of your rows, by the names that training knows: {prompt: question}",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d{1,2})?)$")
    threads: int = Field(1, ge=1, le=512, strict=True, description="CPU threads of torch")
    max_local_steps: int = _limit(1000, 1_000_000, "in one round")
    max_rounds: int = _limit(1000, 100_000, "in one run")
    max_tries: int = _limit(2, 100, "orders to train in one round of one run")
    max_rank: int = _limit(64, 1024, "of an adapter")
    max_trained_parameters: int = _limit(
        200_000_000, 10**11, "of the adapter, with whole heads and embeddings; all of them are sent"
    )
    max_batch_rows: int = _limit(64, 65_536, "rows on the device at once")
    max_order_tokens: int = _limit(10**7, 10**12, "steps x rows x tokens of one order")
    max_order_s: int = _limit(3600, 7 * 86_400, "of one order; then the worker is killed")
    max_day_orders: int = _limit(2000, 10**7, "of any kind, over all runs")
    max_day_runs: int = _limit(20, 10**5, "that may begin, under whatever run id")
    max_day_tokens: int = _limit(10**9, 10**15, "of all orders")
    max_day_s: int = _limit(28_800, 86_400, "that the worker may work")
    allowed_models: list[AllowedModel] = Field(
        default=["nano"],
        max_length=1000,
        description="by name, fetched if it is not here; or by sha256: of all files of one that is",
    )
    tell_row_counts: bool = Field(
        False, strict=True, description="tell the server how many rows this node trains on"
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

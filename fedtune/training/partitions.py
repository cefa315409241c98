"""Deal rows to clients, and hold some out."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fedtune.recipe import Partition
from fedtune.seeds import derive

if TYPE_CHECKING:
    from datasets import Dataset
    from flwr_datasets.partitioner import Partitioner

BY_COLUMN = ("natural_id", "dirichlet", "shard")


@dataclass(frozen=True)
class Split:
    """Row numbers: trained on, and held out."""

    train: list[int]
    test: list[int]


def hold_out(indices: list[int], fraction: float, *, seed: int) -> Split:
    """Hold out a seeded share of the rows, at least one, in a seeded order.

    Args:
        indices: Row numbers, at least two.
        fraction: The share, in (0, 1).
        seed: Draws which.
    """
    order = np.random.default_rng(seed).permutation(len(indices))
    count = min(max(1, round(fraction * len(indices))), len(indices) - 1)
    return Split(
        train=[indices[i] for i in sorted(order[count:])],
        test=[indices[i] for i in order[:count]],
    )


def in_seeded_order(indices: Sequence[int], *, seed: int) -> list[int]:
    """All of the rows, as `hold_out` would order them."""
    return [indices[i] for i in np.random.default_rng(seed).permutation(len(indices))]


def set_aside(indices: list[int], count: int, *, seed: int) -> tuple[list[int], list[int]]:
    """Draw the rows that the server keeps for itself, before anything is dealt.

    Args:
        indices: Row numbers of the training split.
        count: How many to keep; 0 keeps none.
        seed: Draws which.

    Returns:
        The rows kept and the rows left, both in the order given.

    Raises:
        ValueError: If no row would be left.
    """
    if count >= len(indices):
        raise ValueError(
            f"data.server_rows: needs fewer than the {len(indices)} rows of the training split; "
            f"got {count}; lower it"
        )
    kept = set(np.random.default_rng(seed).permutation(len(indices))[:count].tolist())
    return (
        [row for i, row in enumerate(indices) if i in kept],
        [row for i, row in enumerate(indices) if i not in kept],
    )


def deal(rows: Dataset, partition: Partition, num_clients: int, *, seed: int) -> list[list[int]]:
    """Row numbers of each client, deterministic in (rows, partition, seed).

    Raises:
        ValueError: If a client would get fewer than ``partition.min_rows`` rows, or the column
            is not there.
    """
    if partition.by in BY_COLUMN and partition.column not in rows.column_names:
        raise ValueError(
            f"data.partition.column: no column {partition.column!r}; "
            f"the data has {', '.join(rows.column_names)}"
        )
    if len(rows) < num_clients and partition.by != "replicate":
        raise ValueError(
            f"federation.num_clients: {num_clients} clients need {partition.min_rows} rows each "
            f"(data.partition.min_rows); got {len(rows)} rows for all; ask for fewer clients"
        )
    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        # The library draws a progress bar, and sorts as pyarrow no longer likes.
        warnings.filterwarnings("ignore", ".*null_placement.*", FutureWarning)
        parts = _deal(rows, partition, num_clients, seed=seed)
    smallest = min(range(num_clients), key=lambda client: len(parts[client]))
    if len(parts[smallest]) < partition.min_rows:
        raise ValueError(
            f"data.partition: client {smallest} needs at least {partition.min_rows} rows; got "
            f"{len(parts[smallest])} of {len(rows)}; ask for fewer clients, lower "
            f"data.partition.min_rows, or deal the rows otherwise than by {partition.by}"
        )
    return parts


def _deal(rows: Dataset, partition: Partition, num_clients: int, *, seed: int) -> list[list[int]]:
    if partition.by == "replicate":
        return [list(range(len(rows)))] * num_clients
    if partition.by == "natural_id":
        return _deal_whole_ids(rows, partition, num_clients, seed=seed)
    return _by_library(rows, partition, num_clients, seed=seed)


def _by_library(
    rows: Dataset, partition: Partition, num_clients: int, *, seed: int
) -> list[list[int]]:
    from datasets import Dataset

    draw = derive(seed, "partition")
    partitioner = _partitioner(partition, num_clients, draw)
    # A row is its number, so that the library deals numbers and no text is copied.
    columns = {"row": np.random.default_rng(draw).permutation(len(rows))}
    numbered = Dataset.from_dict(columns)
    if partition.by in BY_COLUMN:
        values = np.asarray(rows[partition.column])[columns["row"]]
        numbered = numbered.add_column(partition.column, values)
    partitioner.dataset = numbered
    try:
        parts = [list(partitioner.load_partition(i)["row"]) for i in range(num_clients)]
    except (IndexError, ValueError) as error:
        raise ValueError(
            f"data.partition: {len(rows)} rows cannot be dealt by {partition.by} to {num_clients} "
            f"clients: {error}"
        ) from error
    # Shards of one size leave a few rows over, which the library drops.
    over = sorted(set(range(len(rows))).difference(*parts))
    for i, row in enumerate(over):
        parts[i % num_clients].append(row)
    return [sorted(part) for part in parts]


def _partitioner(partition: Partition, num_clients: int, draw: int) -> Partitioner:
    """The library's, by the recipe's name."""
    from flwr_datasets import partitioner as library

    if partition.by == "iid":
        return library.IidPartitioner(num_clients)
    if partition.by == "size":
        sizes = {
            "linear": library.LinearPartitioner,
            "square": library.SquarePartitioner,
            "exponential": library.ExponentialPartitioner,
        }
        return sizes[partition.sizes](num_clients)
    if partition.by == "dirichlet":
        return library.DirichletPartitioner(
            num_clients, partition.column, partition.alpha, min_partition_size=1, seed=draw
        )
    return library.ShardPartitioner(
        num_clients,
        partition.column,
        num_shards_per_partition=partition.shards_per_client,
        seed=draw,
    )


def _deal_whole_ids(
    rows: Dataset, partition: Partition, num_clients: int, *, seed: int
) -> list[list[int]]:
    from datasets import Dataset
    from flwr_datasets.partitioner import NaturalIdPartitioner

    partitioner = NaturalIdPartitioner(partition.column)
    partitioner.dataset = Dataset.from_dict(
        {partition.column: rows[partition.column], "row": list(range(len(rows)))}
    )
    draw = np.random.default_rng(derive(seed, "partition"))
    parts: list[list[int]] = [[] for _ in range(num_clients)]
    for natural_id in draw.permutation(partitioner.num_partitions):
        # First everyone's minimum, then chance: unequal, but no one is left without.
        poorest = min(range(num_clients), key=lambda client: len(parts[client]))
        chosen = int(draw.integers(num_clients))
        client = poorest if len(parts[poorest]) < partition.min_rows else chosen
        parts[client].extend(partitioner.load_partition(int(natural_id))["row"])
    return [sorted(part) for part in parts]

"""The data section: which rows there are, who holds some back, and how the rest is dealt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from fedtune.recipe.section import Section

Count = Annotated[int, Field(ge=1, le=1_000_000)]
# Read from the running Python, with no file and no network.
EMBEDDED = ("python-docs", "python-topics")
ColumnName = Literal["prompt", "completion", "messages", "text", "chosen", "rejected", "margin"]
Template = Annotated[str, Field(min_length=1, max_length=2000)]
Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


class Source(Section):
    """A data set on disk or the hub, as `datasets.load_dataset` takes it."""

    path: str = Field(min_length=1, description="json, csv, parquet, a saved folder, or a hub name")
    name: str | None = Field(None, description="configuration of a hub data set")
    data_files: str | list[str] | None = Field(None, description="files, or a pattern of names")
    split: str = Field("train", description="which split, or a slice of one")
    revision: str | None = Field(None, description="branch, tag or commit of a hub data set")
    take: Count | None = Field(
        None, description="only the first rows of it, so many: they are streamed, and no more read"
    )

    @model_validator(mode="after")
    def _streams_a_whole_split(self) -> Source:
        if self.take is not None and "[" in self.split:
            raise ValueError(
                f"take: a stream has no slices: got split {self.split!r}; write "
                f"{self.split.partition('[')[0]}"
            )
        return self


class Partition(Section):
    """How the rows are dealt to the clients."""

    by: Literal["natural_id", "iid", "dirichlet", "shard", "size", "replicate"] = Field(
        "iid",
        description="natural_id: by whole values of a column; iid: evenly at random; dirichlet, "
        "shard: unevenly by a column; size: parts of unequal size; replicate: all rows to each",
    )
    column: str | None = Field(
        None, description="natural_id, dirichlet, shard: the column to go by"
    )
    alpha: float = Field(0.5, gt=0, le=1e6, description="dirichlet: the smaller, the more unequal")
    shards_per_client: int = Field(2, ge=1, le=1000, description="shard: how many each client gets")
    sizes: Literal["linear", "square", "exponential"] = Field(
        "linear", description="size: how the parts grow"
    )
    min_rows: int = Field(
        16,
        ge=2,  # one to train on, one to hold out
        description="refuse a split that leaves a client with fewer, before its own hold-out",
    )

    @model_validator(mode="after")
    def _column_is_given(self) -> Partition:
        if self.by in {"natural_id", "dirichlet", "shard"} and not self.column:
            raise ValueError(f"by: {self.by} needs `column`, the name of a column of the data")
        return self


class Data(Section):
    """What the clients train on, and what is held out."""

    source: str | Source = Field(
        "python-docs", description="python-docs, python-topics, a path, a hub name"
    )
    eval_source: str | Source | None = Field(
        None,
        description="rows that no one trains on, for the figures of the whole; null: test_fraction "
        "of source. Each client still holds out test_fraction of its own",
    )
    columns: dict[ColumnName, Template] = Field(
        default_factory=dict,
        max_length=8,
        description="a column of the source by the name that TRL knows, or a template of several: "
        "{prompt: question}, {prompt: '{instruction} {input}', completion: output}",
    )
    system: Literal["keep", "fold"] = Field(
        "keep",
        description="fold: a system turn opens the user's first turn, for templates without one",
    )
    partition: Partition = Partition()
    test_fraction: Fraction = Field(0.1, description="held out, of the whole and of each client")
    max_rows: Count | None = Field(None, description="use only so many rows, drawn by the seed")
    server_rows: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="kept from the clients, for rules such as fltrust that train on the server too",
    )

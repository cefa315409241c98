"""manifest.json: what made a run, written once before its first round; its hash names the run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedtune.durable import read_bytes

MAX_MANIFEST_BYTES = 2**22
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Manifest(BaseModel):
    """What is known of a run when it begins. An older run, or one that began badly, says less.

    Attributes:
        run: Drawn anew for each run: two runs of one recipe have two manifests.
        recipe: The recipe's JSON as clients receive it.
        node_keys: The fingerprint of each client's key, in the order of clients, on a network.
        threads: Of torch.
        layout_hash: Of names and shapes of the adapter.
        client_rows: That each client trains on; none on a network, where rows are the nodes' own.
        client_rows_cut: Of these, that lost tokens to ``max_length``; not there where none did.
        client_rows_dropped: Training rows of each client that were too long to be trained on.
        client_rows_packed: Sequences that these rows are packed into, where they are.
        client_rows_mute: Training rows of each client without a token to learn, left out.
        client_rows_parted: Training rows of each client whose prompt's end is learnt as answer.
        held_out_rows: That the whole is measured on; of these ``held_out_rows_cut`` lost tokens,
            and beside them ``held_out_rows_dropped`` were too long.
        server_rows: Rows that the server holds.
        simulated_attackers: Clients that attack in a simulation; the rule is not told.
        client_names: What clients are called, where their data has names.
        versions: Of Python and the packages.
        hardware: As far as it can move a bit.
    """

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    run: str | None = None
    recipe_hash: str | None = None
    base_hash: str | None = None
    tokenizer_hash: str | None = None
    data_hash: str | None = None
    initial_adapter_hash: str | None = None
    recipe: str | None = None
    node_keys: list[str] = Field(default_factory=list)
    seed: int | None = None
    device: str | None = None
    dtype: str | None = None
    threads: Count | None = None
    layout_hash: str | None = None
    adapter_parameters: Count | None = None
    client_rows: list[Count] = Field(default_factory=list)
    client_rows_cut: list[Count] = Field(default_factory=list)
    client_rows_dropped: list[Count] = Field(default_factory=list)
    client_rows_packed: list[Count] = Field(default_factory=list)
    client_rows_mute: list[Count] = Field(default_factory=list)
    client_rows_parted: list[Count] = Field(default_factory=list)
    held_out_rows: Count | None = None
    held_out_rows_cut: Count | None = None
    held_out_rows_dropped: Count | None = None
    server_rows: Count | None = None
    simulated_attackers: list[Count] = Field(default_factory=list)
    client_names: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, Any] = Field(default_factory=dict)

    def name_of(self, client: int) -> str:
        """What a client is called beside its number, a stranger's words; empty if nothing."""
        return self.client_names[client] if client < len(self.client_names) else ""

    @property
    def facts(self) -> dict[str, Any]:
        """What the file says, by key."""
        return self.model_dump(exclude_unset=True)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest, which may be a stranger's; an empty one if the run never came so far.

    Raises:
        ValueError: If it is damaged, or longer than any.
    """
    if not path.is_file():
        return Manifest()
    try:
        return parse_manifest(read_bytes(path, most=MAX_MANIFEST_BYTES))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; bring it back") from None


def parse_manifest(written: bytes) -> Manifest:
    """What the bytes of a manifest say.

    Raises:
        ValueError: If they are no manifest's.
    """
    try:
        return Manifest.model_validate_json(written)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"][:2])
        raise ValueError(
            f"{where}: {first['msg']}" if where else "it needs a JSON object"
        ) from None


def hash_of(path: Path) -> str:
    """SHA-256 of the manifest as it is written; of nothing while there is none."""
    return hashlib.sha256(read_bytes(path) if path.is_file() else b"").hexdigest()

"""How many rows each client of a run trains on: the server's own deal, or what nodes tell."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedtune.durable import read_bytes, write_whole
from fedtune.records.manifest import Manifest

FILE = "clients.json"  # of a network: what each node says of its rows
MAX_BYTES = 2**22
MAX_ROWS = 2**53


def write_told(folder: Path, said: Mapping[int, Mapping[str, object]]) -> None:
    """Keep what the nodes of a network say of their rows, if it is new; it moves nothing."""
    path = folder / FILE
    text = json.dumps({client: said[client] for client in sorted(said)}, indent=2) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text)


def rows_by_client(folder: Path, manifest: Manifest) -> dict[int, int]:
    """Training rows of the clients of whom they are known.

    Over a network the server has dealt nothing: a node has its owner's rows, and their number is
    known only where the owner lets it be told.

    Args:
        folder: The run's.
        manifest: Of the run.
    """
    if not manifest.node_keys:
        return dict(enumerate(manifest.client_rows))
    path = folder / FILE
    if not path.is_file():
        return {}
    try:
        told = json.loads(read_bytes(path, most=MAX_BYTES))
    except (ValueError, RecursionError):  # whoever changed it, the run's figures are still shown
        return {}
    found = {}
    for client, said in told.items() if isinstance(told, dict) else ():
        rows = said.get("rows") if isinstance(said, dict) else None
        if client.isdecimal() and len(client) < 10 and type(rows) is int and 0 <= rows < MAX_ROWS:
            found[int(client)] = rows
    return found

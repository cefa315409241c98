"""What clients are called, beside their numbers: a stranger's words, cut and made clean."""

from __future__ import annotations

from fedtune.records.manifest import Manifest
from fedtune.report.text import clean

MAX_NAME = 80
MAX_LABEL = 24  # in a table


def name_of(client: int, manifest: Manifest) -> str:
    """A client in a sentence: its number, with its name where it has one."""
    told = clean(manifest.name_of(client), limit=MAX_NAME)
    return f"client {client} ({told})" if told else f"client {client}"


def label_of(client: int, manifest: Manifest) -> str:
    """A client at the head of a row: its number, with its name where it has one."""
    return f"{client} {clean(manifest.name_of(client), limit=MAX_LABEL)}".rstrip()

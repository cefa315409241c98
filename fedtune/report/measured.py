"""The table of `fedtune evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table


def print_measured(
    console: Console,
    base: Mapping[str, float],
    adapter: Mapping[str, float],
    clients: Sequence[Mapping[str, float]],
) -> None:
    """Print held-out figures: base, base + adapter, and the adapter on each client's own rows.

    Args:
        console: Where to.
        base: ``loss``, ``perplexity``, ``token_accuracy``, ``num_tokens``.
        adapter: The same, with the adapter.
        clients: The same for each client, in order; may be empty.
    """
    table = Table("held-out rows", "loss", "perplexity", "token accuracy", "tokens")
    table.add_row("global, base", *_cells(base))
    table.add_row("global, with the adapter", *_cells(adapter))
    for client, figures in enumerate(clients):
        table.add_row(f"client {client}", *_cells(figures))
    console.print(table)


def _cells(figures: Mapping[str, float]) -> list[str]:
    loss, perplexity = figures["loss"], figures["perplexity"]
    accuracy, tokens = figures["token_accuracy"], figures["num_tokens"]
    return [f"{loss:.6f}", f"{perplexity:.4g}", f"{accuracy:.4%}", f"{tokens:.0f}"]

"""The table of `fedtune evaluate`."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from fedtune.report.figures import Write, counted, shown
from fedtune.report.text import percent


def print_measured(
    console: Console,
    base: Mapping[str, float],
    adapter: Mapping[str, float],
    clients: Mapping[int, Mapping[str, float]],
) -> None:
    """Print held-out figures: base, base + adapter, and the adapter on each client's own rows.

    Args:
        console: Where to.
        base: By name, as the run's task has them.
        adapter: The same, with the adapter.
        clients: The same by client; may be empty.
    """
    columns = shown(base)
    over, _ = counted(base)
    table = Table("held-out rows", *(label for label, _, _ in columns), over)
    rows = [("global, base", base), ("global, with the adapter", adapter)]
    rows += [(f"client {client}", figures) for client, figures in clients.items()]
    for name, figures in rows:
        cells = [_cell(figures.get(key), write) for _, key, write in columns]
        table.add_row(name, *cells, counted(figures)[1])
    console.print(table)


def _cell(value: float | None, write: Write) -> str:
    """With more digits than elsewhere: two adapters may differ by little."""
    if value is None:
        return "-"
    return (
        f"{value:.4%}" if write is percent else f"{value:.6f}" if abs(value) < 1e3 else write(value)
    )

"""All that one rule says of itself, as a table."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table


def facts_table(name: str, facts: Mapping[str, str]) -> Table:
    """A rule's facts, label by label, folded to the terminal's width."""
    table = Table(title=name, title_justify="left", title_style="bold", show_header=False, box=None)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, words in facts.items():
        table.add_row(label, escape(words))
    return table

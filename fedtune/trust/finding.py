"""One thing that was looked at in a record, and whether it speaks against the record."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        text: One line; words of the record in it are printable.
        wrong: Whether it speaks against the record.
    """

    text: str
    wrong: bool = True


def noted(text: str) -> Finding:
    """Something that speaks for the record, or that nothing is known of."""
    return Finding(text, wrong=False)

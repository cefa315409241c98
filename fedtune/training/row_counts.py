"""How many rows a client trains on, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datasets import Dataset

_IDS = ("input_ids", "prompt_ids", "chosen_ids", "rejected_ids")


@dataclass(frozen=True)
class RowCounts:
    """What preparing made of one client's rows.

    Attributes:
        rows: Before.
        kept: That are trained on, or measured.
        cut: Of those kept, that lost tokens to ``max_length``.
        dropped: That nothing is left of, or that are longer than the task takes.
        flaws: Rows that teach nothing useful, by what is wrong with them. They are kept, but for
            those that are mute.
        tokens: Of the rows kept, in all their sequences.
        longest: Tokens of the longest sequence kept.
        largest_id: Of a token; -1 where there is none.
        packed: Sequences that hold the rows kept; None where each row is one.
        mute: That no length gives a label; left out, and not among those dropped.
        parted: Of those kept, whose prompt alone has other tokens at its end (`prompt_ends`).
    """

    rows: int
    kept: int
    cut: int = 0
    dropped: int = 0
    flaws: Mapping[str, int] = field(default_factory=dict)
    tokens: int = 0
    longest: int = 0
    largest_id: int = -1
    packed: int | None = None
    mute: int = 0
    parted: int = 0

    @property
    def drawn(self) -> int:
        """Of what a step draws: packed sequences, or rows."""
        return self.kept if self.packed is None else self.packed

    @classmethod
    def of(
        cls,
        rows: int,
        kept: Dataset,
        *,
        cut: int,
        flaws: Counter[str],
        mute: int = 0,
        parted: int = 0,
    ) -> RowCounts:
        """Count the rows kept; ids of a pair's two answers each go with its prompt."""
        tokens, longest, largest = 0, 0, -1
        names = [name for name in _IDS if name in kept.column_names]
        for row in kept.select_columns(names) if names else ():
            lengths = {name: len(row[name]) for name in names}
            tokens += sum(lengths.values())
            asked = lengths.get("prompt_ids", 0)
            longest = max(longest, asked + max([0, *_answers(lengths)]))
            largest = max(largest, *(max(row[name], default=-1) for name in names))
        dropped = rows - len(kept) - mute
        return cls(
            rows,
            len(kept),
            cut,
            dropped,
            dict(flaws),
            tokens,
            longest,
            largest,
            mute=mute,
            parted=parted,
        )


def _answers(lengths: Mapping[str, int]) -> list[int]:
    return [length for name, length in lengths.items() if name != "prompt_ids"]

"""Numbers and strangers' words as short, safe text."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from fedtune.plain import plain

MAX_WORDS = 1000


@dataclass(frozen=True)
class Marks:
    """The signs of one kind of terminal."""

    bars: str
    waiting: str
    replied: str
    refused: str
    cut: str
    none: str


UNICODE = Marks("▁▂▃▄▅▆▇█", "·", "✓", "✗", "…", "–")
ASCII = Marks("_.-=+*%#", ".", "+", "x", "~", "-")


def marks_for(console: Console) -> Marks:
    """Signs that the console's encoding can write."""
    return ASCII if console.options.ascii_only else UNICODE


def clean(words: object, *, limit: int = 200, encoding: str = "utf-8") -> str:
    """Make one line of a stranger's words: no control characters, no escapes, bounded.

    Markup is left as it stands: whoever prints it must do so as `rich.text.Text`, or unparsed.

    Args:
        words: A client's reason, a completion: anything.
        limit: Characters kept at most.
        encoding: What the output can write; the rest becomes a question mark.

    Returns:
        One line, without categories C (controls, bidi overrides, surrogates) and Z but the space.
    """
    text = str(words)[: limit + MAX_WORDS]
    line = " ".join(plain(text, " ").split())
    if len(line) > limit:
        line = line[: max(0, limit - 3)].rstrip() + "..."
    return line.encode(encoding, "replace").decode(encoding)


def number(value: object) -> float | None:
    """The value if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond every float
        return None


def figure(value: object, *, none: str = "-") -> str:
    """Write a loss or a perplexity in at most nine characters."""
    known = number(value)
    if known is None:
        return str(value) if isinstance(value, float) else none
    size = abs(known)
    if size >= 1e5 or 0 < size < 5e-4:
        return f"{known:.1e}"
    return f"{known:.3f}" if size < 100 else f"{known:.1f}"


def percent(value: object, *, none: str = "-") -> str:
    """Write a share as a percentage."""
    known = number(value)
    return none if known is None else f"{100 * known:.1f} %"


def share(value: object, *, none: str = "-") -> str:
    """Write a share that may be tiny as a percentage of two digits."""
    known = number(value)
    return none if known is None else f"{100 * known:.2g} %"


def size(count: object, *, none: str = "-") -> str:
    """Write a count of bytes in powers of a thousand."""
    left = number(count)
    if left is None:
        return none
    for unit in ("B", "kB", "MB", "GB"):
        if left < 999.95:
            return f"{left:.0f} B" if unit == "B" else f"{left:.1f} {unit}"
        left /= 1000
    return f"{left:.1f} TB"


def duration(seconds: float | None, *, none: str = "-") -> str:
    """Write seconds as m:ss or h:mm:ss."""
    if seconds is None:
        return none
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def sparkline(values: Sequence[Any], *, width: int = 40, marks: Marks = UNICODE) -> str:
    """Draw values as one line of bars, the lowest as the lowest bar.

    A value that is not a finite number is drawn as the refused mark. More values than ``width``
    are thinned evenly; the first and the last stay.
    """
    points = [number(value) for value in thin(values, width)]
    known = [point for point in points if point is not None]
    if not known:
        return marks.refused * len(points)
    low, spread = min(known), max(known) - min(known)
    top = len(marks.bars) - 1
    if spread == 0 or not math.isfinite(spread):
        return "".join(marks.refused if point is None else marks.bars[0] for point in points)
    return "".join(
        marks.refused if point is None else marks.bars[round((point - low) / spread * top)]
        for point in points
    )


def thin(values: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of the values (two or more), evenly spaced, with the first and the last."""
    if len(values) <= most:
        return list(values)
    step = (len(values) - 1) / (most - 1)
    return [values[round(i * step)] for i in range(most)]


def as_typed(path: Path) -> str:
    """A path as one would type it from here."""
    here = Path(os.path.abspath(os.curdir))
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)

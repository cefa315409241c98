"""What was raised, as a line for a person, as an account for a file, and where it was raised."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from fedtune.plain import MOST_SIGNS, plain, plain_lines

MOST_OF_A_LINE = 280
PART = "part of the work"  # of an error: in which it was raised


def one_line(error: BaseException, most: int = MOST_OF_A_LINE) -> str:
    """What was raised, and where its notes say that it was; at most so many signs."""
    notes = "; ".join(map(str, getattr(error, "__notes__", ())))
    where = f" ({' '.join(notes.split())[: most // 2]})" if notes else ""
    said = " ".join(str(error).split())
    what = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return plain(what[: most - len(where)] + where)


def account_of(error: BaseException, head: str) -> str:
    """What went wrong, for a file: a head, the traceback's end, and one line of what was raised."""
    trace = "".join(traceback.format_exception(error))[-MOST_SIGNS:]
    return f"{plain(head)}\n{plain_lines(trace)}\n{one_line(error)}"


@contextmanager
def during(part: str) -> Iterator[None]:
    """Mark what is raised within it with the part of the work that it was raised in.

    Args:
        part: A code of `fedtune.messages.node_errors`; of nested ones the inner one counts.
    """
    try:
        yield
    except Exception as error:
        with suppress(AttributeError, TypeError):  # of a class that takes no attributes
            error.__dict__.setdefault(PART, part)
        raise

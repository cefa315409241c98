"""Text of strangers where a person reads it: nothing in it moves a cursor or looks like our line.

`plain` is what everything else here, and whatever prints, logs or refuses, goes through.
"""

from __future__ import annotations

import io
import logging
import sys
import traceback
from typing import TextIO

MOST_SIGNS = 8192  # of a traceback, its end
BAR = "| "  # before each line that is not a line of ours


def plain(text: str, by: str = "?") -> str:
    """One line: each sign that does not print is replaced.

    These are controls and escape codes, line ends, marks that turn the direction of text, spaces
    that are no space, and halves of signs: Unicode's categories C and Z but the space.
    """
    return text if text.isprintable() else "".join(s if s.isprintable() else by for s in text)


def plain_lines(text: str) -> str:
    """Several lines, each plain."""
    return "\n".join(plain(line.expandtabs()) for line in text.splitlines())


def last_traceback() -> str:
    """What is being handled, for a log: a stranger's order may have chosen how long it is."""
    return plain_lines(traceback.format_exc()[-MOST_SIGNS:])


def fenced(text: str) -> str:
    """Several lines, each plain and behind a bar, so that none passes for a line of a log."""
    return "\n".join(BAR + line for line in plain_lines(text).split("\n")) if text else ""


class Fence(io.TextIOBase):
    """A stream that writes all it gets as `fenced` does, as it comes.

    Args:
        under: Where it goes.
    """

    def __init__(self, under: TextIO) -> None:
        self._under, self._begins = under, True

    def write(self, text: str) -> int:
        """Write it; a carriage return ends a line too, and so draws over nothing."""
        for line in text.replace("\r\n", "\n").replace("\r", "\n").splitlines(keepends=True):
            whole = line.endswith("\n")
            told = plain(line.rstrip("\n").expandtabs())
            self._under.write((BAR if self._begins else "") + told + ("\n" if whole else ""))
            self._begins = whole
        return len(text)

    def flush(self) -> None:
        """Flush the stream below."""
        self._under.flush()

    def fileno(self) -> int:
        """Of the stream below."""
        return self._under.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream below."""
        return self._under.encoding


def clean_logs() -> None:
    """Make each record of this process's loggers one plain line, and its traceback fenced."""
    make = logging.getLogRecordFactory()

    def made(*args: object, **keys: object) -> logging.LogRecord:
        record = make(*args, **keys)
        try:
            text = record.getMessage()
        except Exception:  # a record that cannot be formatted must not raise where it is made
            text = f"{record.msg}"
        record.msg, record.args = plain(text.replace("\t", " ")), None
        if record.exc_info and record.exc_info[0] is not None:
            record.exc_text = fenced("".join(traceback.format_exception(*record.exc_info)))
        return record

    logging.setLogRecordFactory(made)


class OwnLines:
    """The output of a process that handles strangers' text: what is not said here is fenced.

    Once it is made, whatever is written to ``sys.stdout`` and ``sys.stderr`` stands behind bars.
    """

    def __init__(self) -> None:
        self._out = sys.stdout
        clean_logs()
        sys.stdout, sys.stderr = Fence(sys.stdout), Fence(sys.stderr)

    def say(self, line: str) -> None:
        """Write a line of ours."""
        print(plain(line), file=self._out, flush=True)

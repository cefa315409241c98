"""No text of a stranger moves the cursor of who reads a log, or passes for a line of ours.

Not proven here: what a library writes past Python, straight to the process's file descriptors.
"""

import io
import subprocess
import sys

import pytest
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from fedtune.cli.console import PlainConsole
from fedtune.plain import Fence, fenced, plain

TITLE = "\x1b]0;owned\x07"  # sets a terminal's title
HOSTILE = [
    TITLE,
    "\x1b[2J\x1b[1;1H",  # clears it
    "\x9b31m",  # an escape of one sign
    "a\rtrain 3: 0.001 s",
    "a\ntrain 3: 0.001 s",
    "a\u2028train 3: 0.001 s",
    "a\x0btrain 3",
    "\u202etxt.exe",  # turns the direction
    "\ud800",
    "\x00\x7f\u200b\xa0",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_plain_text_is_one_line_that_prints(text):
    assert plain(text).isprintable()
    assert len(plain(text)) == len(text)
    assert plain("as it is, ä 漢") == "as it is, ä 漢"


@pytest.mark.parametrize("text", HOSTILE)
def test_each_line_behind_a_fence_has_a_bar(text):
    lines = fenced(text).split("\n")
    assert all(line.startswith("| ") and line.isprintable() for line in lines)
    under = io.StringIO()
    print(text, file=Fence(under))
    lines = under.getvalue().split("\n")
    assert lines.pop() == ""
    assert all(line.startswith("| ") and line.isprintable() for line in lines)


def test_a_line_that_comes_in_pieces_has_one_bar():
    under = io.StringIO()
    stream = Fence(under)
    for piece in ("one ", "line\nand ", "an", "other\r\n", "", "third"):
        stream.write(piece)
    assert under.getvalue() == "| one line\n| and another\n| third"


WORKER = """
import logging, sys
from fedtune.plain import OwnLines
handler = logging.StreamHandler()  # as Flower's, made before
logging.getLogger().addHandler(handler)
own = OwnLines()
hostile = sys.argv[1]
own.say(f"train {hostile}: 1.000 s")
print(hostile)
print(hostile, file=sys.stderr)
logging.warning("[RUN %s, ROUND %s]", 7, hostile)
logging.warning("%d", hostile)
try:
    raise ValueError(hostile)
except ValueError:
    logging.exception("it failed")
raise RuntimeError(hostile)
"""


@pytest.mark.parametrize("text", [*HOSTILE[:-2], "\x7f\u200b\xa0"])
def test_a_process_that_handles_strangers_text_writes_none_of_it_raw(text):
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", WORKER, text],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    lines = done.stdout.decode().split("\n")
    assert lines.pop() == ""
    assert all(line.isprintable() for line in lines)
    ours = [line for line in lines if not line.startswith("| ")]
    made = f"train {plain(text)}: 1.000 s"
    logged = plain(text.replace("\t", " "))
    assert sorted(ours) == sorted([made, f"[RUN 7, ROUND {logged}]", "%d", "it failed"])
    assert sum("Error: " in line for line in lines) == 2
    assert "train 3: 0.001 s" not in lines


@pytest.mark.parametrize("text", HOSTILE)
def test_a_console_writes_strangers_text_plain_however_it_gets_there(text):
    for terminal in (True, False):
        out = io.StringIO()
        console = PlainConsole(file=out, width=60, force_terminal=terminal, color_system=None)
        table = Table(title=text)
        table.add_column(text)
        table.add_row(text, Text(text))
        for shown in (text, Text(text), Panel(text), table):
            console.print(shown, markup=False)
        shown = out.getvalue()
        assert all(line.isprintable() for line in shown.split("\n"))

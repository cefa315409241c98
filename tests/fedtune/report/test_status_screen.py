"""What `fedtune status` prints: plain in a pipe, and strangers' markup as it stands."""

import io

import pytest
from made_up_run import RECORDS, append, make_run
from rich.console import Console

from fedtune.records.event_log import EventLog
from fedtune.records.events import Refused, RoundStarted, RunStarted
from fedtune.report.status import Watch
from fedtune.report.status_screen import print_status
from fedtune.report.status_words import view_of

EVIL = "[bold]trust[/bold] me \x1b[2J\x1b]0;owned\x07 it is \u202eenif"


def printed(path, *, encoding="utf-8", width=80, terminal=False):
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = Console(file=stream, width=width, force_terminal=terminal)
    print_status(console, view_of(Watch(path).look()))
    stream.flush()
    return stream.buffer.getvalue().decode(encoding)


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run")


def test_a_pipe_gets_every_number_and_no_control_code(folder):
    text = printed(folder.path)
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "run  stopped"
    assert lines[1] == "sft of nano | nnm + trimmed_mean, f=1, on products | fedavg"
    assert lines[2] == "2 of 3 rounds are done."
    assert lines[3].startswith("The last process left no word")
    silenced = "client 3: weight 0 in 1 and refused in 1 of 2 rounds."
    assert lines[4] == f"Clients that had no part: {silenced}"
    assert lines[5] == f"  fedtune run --resume {folder.path}"
    facts = {line[:24].strip(): line[24:].strip() for line in lines[5:]}
    assert facts["Held-out loss"] == "6.000 to 5.250  █▃▁"
    assert facts["Held-out token accuracy"] == "5.0 % to 12.5 %"
    assert facts["Time left"] == "0:06, once it goes on"
    assert facts["Traffic"] == "7.0 kB up, 9.0 kB down"
    (row,) = [line.split() for line in lines if line.split()[:1] == ["3"]]
    assert row == ["3", "-", "9.000", "2", "2", "1", "0.0", "%", "40"]
    assert "client 3, round 1: NaN at 5 of 16 numbers" in lines


def test_a_terminal_gets_colour(folder):
    assert "\x1b[1;31mstopped" in printed(folder.path, terminal=True)


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_markup_is_printed_as_it_stands(tmp_path, encoding, terminal):
    folder = make_run(tmp_path / "[red]run", [RECORDS[0], {**RECORDS[1], "refused": {"3": EVIL}}])
    with folder.locked(), EventLog(folder.path, lambda _: None) as note:
        note(RunStarted([]))
        note(RoundStarted(2, 0, [0, 1, 2, 3]))
        note(Refused(2, 2, EVIL))
        text = printed(folder.path, encoding=encoding, terminal=terminal)
    for client, round_ in ((2, 2), (3, 1)):
        assert f"client {client}, round {round_}: [bold]trust[/bold] me" in text
    assert "[red]run" in text
    assert "\x1b[2J" not in text
    assert "\x07" not in text
    assert "\u202e" not in text


def test_a_narrow_terminal_loses_no_number(folder):
    append(folder, {**RECORDS[2], "round": 3, "eval": {"loss": 1e9}})
    text = printed(folder.path, width=40)
    assert "1.0e+09" in text

"""Proves what the live view writes to a pipe and to a terminal, and that it gives that back."""

import os
import re
import signal
import subprocess
import sys
import time
from io import StringIO

import pytest
from rich.console import Console

from fedtune.recipe import parse_recipe
from fedtune.records.events import (
    Ignored,
    Refused,
    Replied,
    RoundFinished,
    RoundStarted,
    RunStarted,
)
from fedtune.report.live import REDRAWS_PER_S, LiveView

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


def recipe(clients=4):
    return parse_recipe({"federation": {"num_clients": clients, "num_rounds": 3}})


def play(view, records, evil, first=1):
    view(RunStarted(records[:first]))
    for record in records[first:]:
        view(RoundStarted(record["round"], 0, [0, 1, 2, 3]))
        for client in (2, 0, 3, 1):
            view(Replied(record["round"], client, 1000, 4.0))
        for client in record["refused"]:
            view(Refused(record["round"], int(client), evil))
        view(RoundFinished(record))


def draw(view):
    console = Console(file=StringIO(), width=80, force_terminal=False)
    console.print(view.render())
    return console.file.getvalue()


def test_a_pipe_gets_a_line_per_round_and_per_refusal(records, evil):
    out = StringIO()
    with LiveView(Console(file=out, width=80), recipe()) as view:
        play(view, records, evil)
    lines = out.getvalue().splitlines()
    assert lines[0] == "capped_spectral, f=1, on products | fedavg: loading, measuring the base"
    assert lines[1] == "base loss 6.000; 3 rounds to go"
    assert lines[2] == "refused: round 1, client 3: [bold]trust[/bold] me [2J ]0;owned it is enif"
    assert lines[3].startswith(
        "round 1/3: loss 5.500 (base 6.000), 3 of 4 replies accepted, 3.0 kB up, 4.0 kB down"
    )
    assert lines[5].startswith("round 2/3: no loss, 3 of 4")
    assert lines[7].startswith("round 3/3: loss 5.000 (base 6.000)")
    assert len(lines) == 8


def test_a_pipe_gets_no_control_codes_and_only_ascii(records, evil, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    out = StringIO()
    with LiveView(Console(file=out, width=80), recipe()) as view:
        play(view, records, evil + " ✓")
    assert out.getvalue().isascii()
    assert not set(out.getvalue()) & {chr(code) for code in range(32) if code != 10}


def test_what_is_ignored_is_not_called_refused(records):
    out = StringIO()
    with LiveView(Console(file=out, width=80), recipe()) as view:
        view(RunStarted(records[:1]))
        view(RoundStarted(1, 0, [0, 1, 2, 3]))
        view(Ignored(1, 2, "a second reply was ignored"))
        assert "ignored" in draw(view)
        assert "refused" not in draw(view)
    assert "ignored: round 1, client 2: a second reply was ignored\n" in out.getvalue()


def test_a_resumed_run_says_where_it_goes_on(records, evil):
    out = StringIO()
    with LiveView(Console(file=out, width=80), recipe()) as view:
        play(view, records, evil, first=3)
    assert "goes on after round 2/3: loss 5.500, base loss 6.000" in out.getvalue()
    assert "round 3/3: loss 5.000" in out.getvalue()


def test_the_view_shows_who_replied_and_who_was_refused(records, evil):
    view = LiveView(Console(file=StringIO(), width=80), recipe(), animate=True)
    assert "loading, measuring the base" in draw(view)
    view(RunStarted(records[:1]))
    view(RoundStarted(1, 1, [0, 1, 2, 3]))
    view(Replied(1, 2, 1000, 3.0))
    view(Replied(1, 0, 1000, 5.0))
    view(Replied(1, 3, 1000, float("nan")))
    view(Refused(1, 3, evil))
    text = draw(view)
    assert "1 of 3" in text
    assert "training, try 2" in text
    assert re.search(r"0✓ 1· 2✓ 3✗ +2 of 4 replied, 1 refused, training loss 4.000", text)
    assert "loss 6.000, base 6.000" in text
    assert "3.0 kB up" in text
    assert "round 1, client 3: [bold]trust[/bold] me [2J ]0;owned it is enif" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_view_of_a_finished_run(records, evil):
    view = LiveView(Console(file=StringIO(), width=80), recipe(), animate=True)
    play(view, records, evil)
    text = draw(view)
    assert "all rounds done" in text
    assert "█▅▁  loss 5.000, base 6.000" in text  # 6, 5.5, 5: bars 7, round(3.5) = 4, 0
    assert "9.0 kB up, 12.0 kB down" in text


@pytest.mark.parametrize(("clients", "marks"), [(100, 100), (1000, 0)])
def test_a_crowd_becomes_marks_or_counts(clients, marks):
    view = LiveView(Console(file=StringIO(), width=80), recipe(clients), animate=True)
    view(RoundStarted(1, 0, list(range(clients))))
    view(Replied(1, 0, 10, 4.0))
    text = draw(view)
    assert text.count("·") == max(0, marks - 1)
    assert f"1 of {clients} replied" in text


def test_a_terminal_is_redrawn_and_given_back(records, evil):
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    with LiveView(console, recipe(), animate=True) as view:
        play(view, records, evil)
    text = out.getvalue()
    assert "all rounds done" in text
    assert text.rindex(SHOW) > text.rindex(HIDE)
    assert "\x1b[2J" not in text
    assert "\x07" not in text


def test_an_interrupt_gives_the_terminal_back(records):
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=True)

    def interrupt():
        with LiveView(console, recipe(), animate=True) as view:
            view(RunStarted(records[:1]))
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    written = out.getvalue()
    assert written.rindex(SHOW) > written.rindex(HIDE)
    time.sleep(1.5 / REDRAWS_PER_S)
    assert out.getvalue() == written


def test_redraws_are_few_however_many_events(records):
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=True)
    started = time.monotonic()
    with LiveView(console, recipe(100), animate=True) as view:
        view(RunStarted(records[:1]))
        for round_ in range(1, 4):
            view(RoundStarted(round_, 0, list(range(100))))
            for client in range(100):
                view(Replied(round_, client, 10, 4.0))
        time.sleep(0.6)
    draws = out.getvalue().count("fedtune")
    assert draws <= (time.monotonic() - started) * REDRAWS_PER_S + 3  # the first and the last


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo terminal")
def test_a_real_terminal_is_recognised(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    controller, terminal = os.openpty()
    written = ""
    with os.fdopen(terminal, "w") as stream:
        with LiveView(Console(file=stream, width=80), recipe()):
            pass
        while SHOW not in written:  # a pseudo terminal hands its bytes over in pieces
            written += os.read(controller, 65536).decode(errors="replace")
    os.close(controller)
    assert written.index(HIDE) < written.index(SHOW)


def test_importing_the_screens_brings_neither_matplotlib_nor_torch():
    code = (
        "import sys, fedtune.report.live, fedtune.report.table;"
        "print(sorted({'matplotlib', 'torch', 'flwr', 'transformers'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr

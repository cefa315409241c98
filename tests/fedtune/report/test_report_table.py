"""Proves the facts in the summary that is printed when a run ends, and that strangers stay mute."""

import json
from io import BytesIO, StringIO, TextIOWrapper

import pytest
from rich.console import Console
from typed_records import typed

from fedtune.recipe import parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.report.summary import summarise
from fedtune.report.table import notable, print_summary

SAMPLES = [
    {"prompt": f"def f{i}(x):", "truth": "Do it.", "before": "the " * 99, "after": "Do\n\x1b[2Jit."}
    for i in range(5)
]


def recipe(rounds=3):
    return parse_recipe({"federation": {"num_clients": 4, "num_rounds": rounds}})


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder(tmp_path / "my run")
    folder.adapter.mkdir(parents=True)
    (folder.path / "curves.svg").write_bytes(b"")
    manifest = {"client_rows": [384, 346, 114, 77], "simulated_attackers": [3]}
    folder.manifest.write_text(json.dumps(manifest))
    return folder


def show(records, samples, folder, rounds=3, **options):
    console = Console(record=True, width=80, file=StringIO(), **options)
    print_summary(console, recipe(rounds), typed(records), samples, folder)
    return console.export_text()


def row(text, start):
    """Find the cells of the first line that starts so."""
    lines = [line.split() for line in text.splitlines()]
    return next(line for line in lines if line[:1] == [start] and line[1:2] != ["of"])


def test_the_gain_and_the_curve(records, folder):
    text = show(records, [], folder)
    assert row(text, "loss") == ["loss", "6.000", "5.000", "-1.000"]
    assert row(text, "perplexity") == ["perplexity", "403.4", "148.4", "-255.0"]
    assert "5.0 %   15.0 %   +10.0 %" in text
    assert "backdoor" not in text
    assert row(text, "round") == ["round", "0", "1", "3"]
    assert "█▅▁" in text
    assert "3 of 3 rounds in 0:12: training 6.0 s, aggregating 1.5 s" in text
    assert "9.0 kB up, 12.0 kB down" in text


def test_a_planted_backdoor_has_a_line(records, folder):
    records[0]["eval"] = {**records[0]["eval"], "backdoor_success": 0.0}
    records[3]["eval"] = {**records[3]["eval"], "backdoor_success": 0.875}
    told = row(show(records, [], folder), "backdoor")
    assert told == ["backdoor", "success", "0.0", "%", "87.5", "%", "+87.5", "%"]


def test_clients_are_called_by_their_names(records, folder):
    """Which are data, or a stranger's: cut, on one line, and never markup."""
    names = ["org acme", "org [red]b[/red]\x1b[2J", "", "x" * 500]
    folder.manifest.write_text(json.dumps({"client_rows": [5] * 4, "client_names": names}))
    text = show(records, [], folder)
    assert "0 org acme" in text
    assert "1 org [red]b[/red] [2J" in text
    assert "3 xxxxx" in text
    assert 90 * "x" not in "".join(text.split())
    assert "client 2 refused, 1 x" in text


def test_rows_that_were_too_long_are_told(records, folder):
    assert "length" not in show(records, [], folder)
    lost = {"client_rows_cut": [0, 3, 1, 0], "client_rows_dropped": [2, 0, 0, 0]}
    told = {"client_rows": [5] * 4, "client_names": ["", "org acme", "", ""], **lost}
    folder.manifest.write_text(json.dumps({**told, "held_out_rows_dropped": 7}))
    records[-1]["evaluation_refused"] = {"2": "none of its rows\x1b[2J", "0": "it sent no reply"}
    text = " ".join(show(records, [], folder).split())
    assert "4 training rows were cut for their length, most of them, 3, with client 1 (org" in text
    assert "2 training rows were left out for their length, most of them, 2, with client 0" in text
    assert "7 held-out rows were left out for their length" in text
    assert "client 0 not measured on rows of its own: it sent no reply client 2 not" in text


def test_each_client_has_a_row(records, folder):
    text = show(records, [], folder)
    # weights as in test_report_summary: 0.4, 0.7 / 3 and 0, of a fair 0.25
    # all are as far away as the median client
    assert " ".join(row(text, "0")) == "0 384 40.0 % 1.60x - 0 of 3 1.00 5.100"
    assert row(text, "1")[-1] == "1.0e+308"
    assert " ".join(row(text, "2")) == "2 114 23.3 % 0.93x 1 1 of 3 1.00 -"
    assert " ".join(row(text, "3")) == "3 77 0.0 % 0.00x 1 3 of 3 1.00 - attacker"
    assert "the client's own word" in text
    assert "client 2 refused, 1 x: it sent no reply" in text
    assert "client 3 refused, 2 x: [bold]trust[/bold] me [2J ]0;owned it is enif" in text
    assert text.count("attacker") == 2  # the heading and client 3
    assert "never told" in text


def test_without_simulated_attackers_there_is_no_such_column(records, folder):
    folder.manifest.write_text("{}")
    assert "attacker" not in show(records, [], folder)


def test_samples_are_few_and_trimmed(records, folder):
    text = show(records, SAMPLES, folder)
    assert [f"f{i}(x)" in text for i in range(5)] == [True, True, True, False, False]
    assert text.count("before the the") == 3
    assert text.count("the the") <= 3 * 2 * 20  # two lines of at most 80 cells each
    assert "Do [2Jit." in text


def test_it_says_what_to_do_next(records, folder):
    text = show(records, [], folder)
    assert "adapter   my run/adapter" in text
    assert "picture   my run/curves.svg" in text
    assert "fedtune evaluate 'my run'" in text
    assert "fedtune merge 'my run' merged-model" in text
    assert "--resume" not in text


def test_a_run_that_stopped_early_can_go_on(records, folder):
    folder.adapter.rmdir()
    (folder.path / "curves.svg").unlink()
    text = show(records[:3], SAMPLES[:0], folder, rounds=8)
    assert "2 of 8 rounds" in text
    assert "the run stopped early" in text
    assert "fedtune run --resume 'my run'" in text
    assert "evaluate" not in text
    assert "picture" not in text


def test_everything_fits_80_columns(records, folder):
    for line in show(records, SAMPLES, folder).splitlines():
        assert len(line.rstrip()) <= 80


def test_a_long_run_of_many_clients_stays_one_line_a_client(folder):
    manifest = {"client_rows": [123_456] * 1000, "simulated_attackers": [999]}
    folder.manifest.write_text(json.dumps(manifest))
    facts = {"weight": 0.123, "distance": 1.0}
    clients = {"998": facts, "997": facts, "999": {"weight": 0.0, "distance": 123_456.7}}
    eval_ = {"client_eval": {"999": {"loss": 123.456}}, "discarded": 1e-5}
    records = [{"round": i, "clients": clients, **eval_} for i in range(1, 1201)]
    text = show(records, [], folder, rounds=1200)
    words = "999 123456 0.0 % 0.00x 1200 1200 of 1200 1e+05 123.5 attacker"
    assert " ".join(row(text, "999")) == words
    assert "rank 8 could not hold 0.001 % of BA's energy a round, - of what changed" in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())


def test_a_rule_without_weights_has_dashes(folder):
    one = {"weight": None, "dropped": None, "distance": 2.0}
    records = [
        {"round": 1, "sampled": [0, 1], "clients": {"0": one, "1": one}},
        {"round": 2, "sampled": [0, 1], "clients": {"0": one}, "refused": {"1": "late"}},
    ]
    lines = [" ".join(line.split()) for line in show(records, [], folder).splitlines()]
    assert "0 384 - - - - 1.00 -" in lines
    assert "1 346 - - - 1 of 2 1.00 -" in lines


def test_no_stranger_reaches_the_terminal(records, folder):
    out = StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    print_summary(console, recipe(), typed(records), SAMPLES, folder)
    assert not {"\x07", "\u202e", "\x1b[2J"} & set(out.getvalue())
    assert "\x1b]0;" not in out.getvalue()
    assert "\x1b[2J" not in out.getvalue()


def test_an_old_encoding_is_no_obstacle(records, folder):
    stream = TextIOWrapper(BytesIO(), encoding="ascii")
    samples = [{**SAMPLES[0], "truth": "naïve ✓ " * 99}]
    print_summary(Console(file=stream, width=80), recipe(), typed(records), samples, folder)
    stream.flush()
    assert b"na?ve" in stream.buffer.getvalue()


@pytest.mark.parametrize(
    "records",
    [[], [{"round": 0}], [{"round": 1, "clients": {"0": {}}}], [{"round": 0, "eval": {}}]],
)
def test_bare_records_print_what_there_is(records, tmp_path):
    assert "rounds" in show(records, [{}], RunFolder(tmp_path / "gone"))


def test_of_a_crowd_the_notable_are_shown(folder):
    clients = {str(i): {"weight": 1 / 99} for i in range(99)}
    records = [{"round": 1, "clients": clients, "refused": {"99": "late"}}]
    shown = [client.client for client in notable(summarise(typed(records)).clients)]
    assert len(shown) == 32
    assert shown[-1] == 99
    assert "68 clients" in show(records, [], folder)  # 100 - 32


def test_long_runs_show_some_rounds(folder):
    records = [{"round": i, "eval": {"loss": 6.0 - i / 1000}} for i in range(1001)]
    numbers = row(show(records, [], folder), "round")[1:]
    assert numbers == ["0", "125", "250", "375", "500", "625", "750", "875", "1000"]


def test_who_had_no_part_stands_in_the_headline(records, folder):
    """Above the gain; client 3 is the attacker of the folder's manifest."""
    text = " ".join(show(records, [], folder).split())
    honest = "Honest clients that had no part: client 2: refused in 1 of 3 rounds."
    assert honest in text
    assert "Attackers that had no part: client 3: weight 0 in 1 and refused in 2 of 3" in text
    assert text.index(honest) < text.index("held out")

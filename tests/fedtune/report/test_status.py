"""Where a run stands, worked out from a folder whose numbers can be followed by hand.

See made_up_run.py for the numbers. Not proven here: systems without locks, where the state is
unknown.
"""

import json
import os
import random
import subprocess
import sys
from dataclasses import asdict

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import LAST, RECORDS, append, make_run, make_stages
from typed_records import typed

from fedtune.records.event_log import LOG, EventLog
from fedtune.records.events import Refused, Replied, RoundStarted, RunStarted, RunStoppedError
from fedtune.records.growing import Records
from fedtune.report.status import Watch
from fedtune.report.status_clients import HEADS, client_rows, standings
from fedtune.report.status_facts import facts_of
from fedtune.report.status_stages import newest_run, watch_folder
from fedtune.report.status_words import CANNOT_TELL, KILLED, NOT_BEGUN, view_of

BEGAN = 10_000.0


def clock(*seconds):
    """A clock for an event log: it began at BEGAN, and each event comes at the next of these."""
    times = iter((BEGAN, *(BEGAN + each for each in seconds)))
    return lambda: next(times)


def in_round_3(folder, seconds=(1, 2, 3, 4, 5)):
    """An event log that is in round 3, of which clients 0 and 3 have been heard."""
    log = EventLog(folder.path, lambda _: None, clock=clock(*seconds))
    note = log.__enter__()
    note(RunStarted([]))
    note(RoundStarted(3, 0, [0, 1, 2, 3]))
    note(Replied(3, 0, 1000, 3.5))
    note(Refused(3, 3, "NaN at 5 of 16 numbers"))
    return log


@pytest.fixture
def folder(tmp_path):
    return make_run(tmp_path / "run")


def test_a_run_at_work_is_seen_up_to_its_last_reply(folder):
    with folder.locked():
        in_round_3(folder)
        status = Watch(folder.path).look(now=BEGAN + 5)
    assert status.state == "running"
    assert status.progress.done == 2
    assert status.elapsed_s == 5
    # the median of 4 and 8 s is 6 a round; round 3 began at 2 s, so that 3 of them are spent, and
    # by its replies (2 of 4 in 3 s) it takes as long: 6 - 3 are left
    assert status.recorded.round_s == 6.0
    assert status.left_s == 3.0
    # 3000 + 4000 recorded, and 1000 that just came
    assert (status.progress.upload_bytes, status.progress.download_bytes) == (8000, 9000)
    marks = {one.client: one.mark for one in standings(status)}
    assert marks == {0: "replied", 1: "waiting", 2: "waiting", 3: "refused"}
    view = view_of(status)
    assert view.say == "Round 3 of 3: training; 1 of 4 replied, 1 refused."
    assert view.share == pytest.approx((2 + 2 / 4) / 3)
    assert view.why is None
    assert not view.commands


def test_each_client_is_counted_as_the_records_say(folder):
    status = Watch(folder.path).look()
    found = {one.client: one for one in standings(status)}
    assert [one.rows for one in found.values()] == [10, 20, 30, 40]
    assert [one.asked for one in found.values()] == [2, 2, 2, 2]
    assert [one.dropped for one in found.values()] == [0, 0, 0, 2]
    # client 2 was silent in the first try of round 2, client 3 was refused in round 1
    assert [one.refused for one in found.values()] == [0, 0, 1, 1]
    assert [one.train_loss for one in found.values()] == [4.5, 4.25, 4.0, 9.0]
    # shares: 0.5 and 0.5; refused counts as 0 and the weight 0 after it
    assert [one.weight for one in found.values()] == [0.5, 0.25, 0.25, 0.0]
    reasons = [(each.client, each.reason, each.times, each.last_round) for each in status.refusals]
    assert reasons == [(2, "it sent no reply", 1, 2), (3, "NaN at 5 of 16 numbers", 1, 1)]
    assert status.recorded.second_replies == 2
    assert status.recorded.retried_rounds == 1
    rows, left_out = client_rows(status)
    assert rows[3].cells == ("3", "-", "9.000", "2", "2", "1", "0.0 %", "40")
    assert (len(HEADS), left_out) == (8, 0)


def test_a_reason_that_comes_again_is_counted_on(folder):
    with folder.locked():
        in_round_3(folder)
        status = Watch(folder.path).look(now=BEGAN + 5)
    (newest, _) = status.refusals
    assert (newest.client, newest.times, newest.last_round) == (3, 2, 3)
    said = view_of(status).refusals[0]
    assert said == ("client 3", "2 times, last in round 3", "NaN at 5 of 16 numbers")


def test_the_states_and_what_to_do(folder):
    watch = Watch(folder.path)
    resume = (f"fedtune run --resume {folder.path}",)
    killed = watch.look()
    assert (killed.state, view_of(killed).why) == ("stopped", KILLED)
    assert tuple(view_of(killed).commands) == resume
    assert view_of(killed).say == "2 of 3 rounds are done."
    assert killed.left_s == 6.0

    in_round_3(folder)  # as kill -9 leaves it
    view = view_of(watch.look())
    assert view.say == "2 of 3 rounds are done; in round 3, 1 of 4 replied, 1 refused."
    assert [row.cells[1] for row in view.clients] == ["replied", "silent", "silent", "refused"]

    told = in_round_3(folder)
    told.__exit__(RunStoppedError, RunStoppedError("too few replies"), None)
    view = view_of(watch.look())
    assert (view.state, view.why, tuple(view.commands)) == ("stopped", "too few replies", resume)

    told = in_round_3(folder)
    error = RunStoppedError("the data is no longer the one", resumable=False)
    told.__exit__(RunStoppedError, error, None)
    assert not view_of(watch.look()).commands

    (folder.path / LOG).unlink()
    append(folder, LAST)
    assert watch.look().state == "stopped"  # killed before the adapter was written
    with folder.locked():
        view = view_of(watch.look())
        assert view.say == "Loading, measuring the base; 3 of 3 rounds are done."
        with EventLog(folder.path, lambda _: None) as note:
            note(RunStarted([]))
            assert view_of(watch.look()).say == (
                "3 of 3 rounds are done; the adapter is being written."
            )
    folder.adapter.mkdir()
    view = view_of(watch.look())
    assert (view.state, view.say, view.share) == ("finished", "3 of 3 rounds are done.", 1.0)
    assert view.commands[0] == f"fedtune report {folder.path}"


def test_a_folder_in_which_nothing_began(tmp_path):
    folder = make_run(tmp_path / "run", records=[])
    view = view_of(Watch(folder.path).look())
    assert (view.state, view.say, view.why) == ("stopped", "0 of 3 rounds are done.", NOT_BEGUN)
    assert dict(view.facts)["A round"] == "not known yet"
    assert facts_of(Watch(folder.path).look())["eval"] == {"base": {}, "now": {}}


def test_where_locks_are_unknown_nothing_is_called_stopped(folder, monkeypatch):
    fcntl = pytest.importorskip("fcntl")

    def no_locks(*_):
        raise OSError("no locks on this file system")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    (folder.path / ".lock").touch()
    view = view_of(Watch(folder.path).look())
    assert (view.state, view.why) == ("unknown", CANNOT_TELL)


def test_a_round_that_is_recorded_already_is_not_in_progress(folder):
    with folder.locked():
        in_round_3(folder)
        append(folder, LAST)  # the log has not heard of it
        status = Watch(folder.path).look(now=BEGAN + 5)
    assert status.progress.done == 3
    assert not status.progress.clients
    assert status.progress.upload_bytes == 10_000
    assert [each.times for each in status.refusals if each.client == 3] == [2]  # rounds 1 and 3


def alone(records):
    """Records without the hash that ties each to the one before."""
    return [each.model_copy(update={"previous": None, "schema_version": 1}) for each in records]


def test_a_line_that_is_half_written_waits(folder):
    whole = folder.metrics.read_bytes()
    ends = [at + 1 for at, sign in enumerate(whole) if sign == ord("\n")]
    for kept in range(len(whole) + 1):
        folder.metrics.write_bytes(whole[:kept])
        whole_lines = sum(end <= kept for end in ends)
        assert alone(Records(folder.metrics).read()) == typed(RECORDS[:whole_lines])


def test_records_are_read_once_and_a_cut_file_anew(folder):
    records = Records(folder.metrics)
    first = records.read()
    assert records.read() is first
    append(folder, LAST)
    grown = records.read()
    assert alone(grown) == typed([*RECORDS, LAST])
    assert grown[1] is first[1]
    # a resume cuts the file and writes other lines of the same length
    text = folder.metrics.read_text()
    folder.metrics.write_text(text.replace('"round_s": 6.0', '"round_s": 7.0'))
    assert records.read()[-1].round_s == 7.0
    folder.truncate_metrics(folder.metrics.read_text().find('{"round": 2'))
    assert alone(records.read()) == typed(RECORDS[:2])
    folder.metrics.unlink()
    assert records.read() == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{", "line 4 needs JSON"),
        ("[" * 100_000, "line 4 needs JSON"),
        ("7", "line 4 needs an object"),
        ("{}", "line 4 needs round: it is not there"),
        ('{"round": true}', "line 4 needs round: a valid integer"),
        ('{"round": -1}', "line 4 needs round: greater than or equal to 0"),
        ('{"round": 1, "clients": []}', "line 4 needs clients: an object"),
        ('{"round": 1, "refused": {"x": ""}}', "line 4 needs refused.x"),
        ('{"round": 1, "clients": {"%s": {}}}' % ("9" * 5000), "line 4 needs clients.9{40}"),
        ('{"round": 1, "refused_before": [7]}', "line 4 needs refused_before.0: an object"),
        ('{"round": 1, "sampled": ["a"]}', "line 4 needs sampled.0: a valid integer"),
        ('{"round": 1, "eval": 7}', "line 4 needs eval: an object"),
        ('{"round": 1, "train_s": "x"}', "line 4 needs train_s: a valid number"),
        ('{"round": 1, "schema_version": 3}', "line 4 needs schema_version up to 2, got 3"),
    ],
)
def test_a_damaged_line_is_named(folder, line, told):
    with folder.metrics.open("a") as stream:
        stream.write(f"{line}\n")
    watch = Watch(folder.path)
    for _ in range(2):
        with pytest.raises(ValueError, match=f"metrics.jsonl is damaged: {told}"):
            watch.look()
    folder.truncate_metrics(folder.metrics_bytes() - len(line) - 1)
    assert watch.look().progress.done == 2


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("recipe.yaml", "a: [", "not readable as YAML"),
        ("recipe.yaml", "7", "needs a mapping of sections"),
        ("recipe.yaml", "task: sft", "federation.num_clients needs a count; got -"),
        ("recipe.yaml", "federation: {num_clients: 4, num_rounds: 0}", "num_rounds needs a count"),
        ("recipe.yaml", "x: " + "[" * 5000, "recipe.yaml"),
        ("recipe.yaml", "#" * (2**22 + 1), "needs at most 4194304 bytes"),
        ("manifest.json", "{", "manifest.json is damaged: it needs a JSON object"),
        ("manifest.json", "[]", "manifest.json is damaged: it needs a JSON object"),
        ("manifest.json", '{"client_rows": 3}', "manifest.json is damaged: client_rows: "),
        ("manifest.json", "[" * 100_000, "manifest.json is damaged: it needs a JSON object"),
    ],
)
def test_a_damaged_file_is_named(folder, name, text, told):
    (folder.path / name).write_text(text)
    with pytest.raises(ValueError, match=told):
        Watch(folder.path).look()


def test_no_run_is_no_status(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run: there is no such folder"):
        watch_folder(tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=r"holds no run: it has no recipe.yaml"):
        watch_folder(tmp_path)


def test_a_yaml_of_terabytes_is_not_written_out(folder):
    bomb = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    bomb += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 6)]
    bomb += ["federation: {num_clients: 4, num_rounds: 3}", "task: *a5"]
    bomb += ["aggregator: {name: *a5, mixing: *a5, f: *a5}"]
    folder.recipe.write_text("\n".join(bomb))
    with pytest.raises(ValueError, match=r"recipe\.yaml.*needs at most 2097152 bytes"):
        Watch(folder.path).look()
    # What is under that bound is shown in a few words all the same.
    folder.recipe.write_text("\n".join([*bomb[:3], *bomb[6:]]).replace("*a5", "*a2"))
    assert view_of(Watch(folder.path).look()).rule.startswith("- of")


HOSTILE = "[bold]trust[/bold] \x1b[2J\x1b]0;owned\x07 <script>a</script> \u202eenif\nnew line"


def strings_in(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield key
            yield from strings_in(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings_in(each)


def test_strangers_words_are_one_clean_bounded_line_everywhere(tmp_path):
    words = HOSTILE + "x" * 10_000
    record = {
        **RECORDS[1],
        "refused": {"3": words},
        "evaluation_refused": {"1": words},
        "eval": {"loss": 5.0, words: 1.0},
    }
    folder = make_run(tmp_path / "run", records=[RECORDS[0], record])
    text = folder.recipe.read_text()
    folder.recipe.write_text(text.replace("task: sft", f"task: {json.dumps(words)}"))
    with folder.locked(), EventLog(folder.path, lambda _: None) as note:
        note(RunStarted([]))
        note(RoundStarted(2, 0, [0, 1, 2, 3]))
        note(Refused(2, 1, words))
        status = Watch(folder.path).look()
        for said in (asdict(view_of(status)), facts_of(status)):
            for each in strings_in(said):
                assert len(each) <= 1000
                assert not set(each) & {"\x1b", "\x07", "\n", "\u202e"}
            assert len(json.dumps(said)) < 20_000


def test_a_crowd_is_shown_by_those_refused_most_often(tmp_path):
    refused = {str(client): "NaN" for client in range(500, 510)}
    record = {"round": 1, "sampled": list(range(600)), "refused": refused, "clients": {}}
    sections = {"federation": {"num_clients": 600, "num_rounds": 3}, "aggregator": {"name": "mean"}}
    folder = make_run(tmp_path / "run", [record], **sections)
    rows, left_out = client_rows(Watch(folder.path).look())
    shown = [int(row.cells[0]) for row in rows]
    assert set(range(500, 510)) < set(shown)
    assert (len(shown), left_out) == (32, 568)
    assert shown == sorted(shown)
    assert len(facts_of(Watch(folder.path).look())["clients"]) == 600


FILES = ("recipe.yaml", "manifest.json", "metrics.jsonl", LOG, ".lock")


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_a_folder_damaged_by_chance_is_told_of_or_refused(tmp_path_factory, seed):
    """Bytes are changed, cut, doubled or swapped in one file; nothing but a refusal may come."""
    draw = random.Random(seed)
    folder = make_run(tmp_path_factory.mktemp("damaged") / "run")
    in_round_3(folder)
    path = folder.path / draw.choice(FILES)
    data = bytearray(path.read_bytes() if path.exists() else b"")
    for _ in range(draw.randint(1, 4)):
        at, end = sorted(draw.choices(range(len(data) + 1), k=2))
        kind = draw.randrange(4)
        if kind == 0:
            data[at:end] = draw.randbytes(draw.randint(0, 8))
        elif kind == 1:
            data[at:at] = data[at:end]
        elif kind == 2:
            del data[draw.randint(0, len(data)) :]
        else:
            other = draw.choice([b"null", b"NaN", b"-1", b"1e999", b"{}", b"[]", b'""', b"true"])
            data[at : at + draw.randint(0, 4)] = other
    path.write_bytes(data)
    try:
        status = Watch(folder.path).look()
    except (ValueError, OSError):
        return
    view_of(status)
    json.dumps(facts_of(status), allow_nan=False)


def test_stages_are_told_one_by_one(tmp_path):
    folder = make_stages(tmp_path / "all", ["sft"])
    watch = watch_folder(folder.path)
    status = watch.look()
    assert status.state == "stopped"
    assert [stage.state for stage in status.stages] == ["done", "stopped", "to do"]
    view = view_of(status)
    assert view.say == "1 of 3 stages are done. Stage reward: 2 of 3 rounds are done."
    assert view.share == pytest.approx((1 + 2 / 3) / 3)
    assert tuple(view.commands) == (f"fedtune run --resume {folder.path}",)
    assert view.stages[0] == ("sft", "sft", "done", "3 of 3", "loss 6.000 to 4.125")
    assert view.stages[2] == ("dpo", "dpo", "to do", "-", "-")
    with folder.locked():
        status = watch.look()  # between two stages no stage's own folder is held
        assert status.state == "running"
        assert [stage.state for stage in status.stages] == ["done", "running", "to do"]
        assert facts_of(status)["stages"][1]["run"]["state"] == "running"
    # one stage's own folder is resumed as a whole
    alone = view_of(watch_folder(folder.path / "reward").look())
    assert tuple(alone.commands) == (f"fedtune run --resume {folder.path}",)
    all_done = {"stages": dict.fromkeys(("sft", "reward", "dpo"), "done")}
    (folder.path / "stages.json").write_text(json.dumps(all_done))
    assert watch.look().state == "finished"
    (folder.path / "stages.json").write_text("{}")
    with pytest.raises(ValueError, match=r"stages.json is damaged: it needs stages by name"):
        watch.look()


@pytest.mark.parametrize("name", ["..", "a/b", "", 7, None])
def test_a_stage_s_name_leads_to_no_other_folder(tmp_path, name):
    folder = make_stages(tmp_path / "all", [])
    raw = yaml.safe_load(folder.recipe.read_text())
    raw["stages"][0]["name"] = name
    folder.recipe.write_text(yaml.safe_dump(raw))
    with pytest.raises(ValueError, match="each stage needs a name that a folder can have"):
        watch_folder(folder.path).look()


def test_the_newest_run_is_the_one_at_work_or_last_written_to(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run here"):
        newest_run(tmp_path)
    old, new = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    (tmp_path / "bench").mkdir()
    for folder, at in ((old, 1000), (new, 2000)):
        for path in folder.path.iterdir():
            os.utime(path, (at, at))
    assert newest_run(tmp_path) == new.path
    with old.locked():
        assert newest_run(tmp_path) == old.path
    os.utime(old.metrics, (3000, 3000))
    assert newest_run(tmp_path) == old.path


def test_a_look_does_not_load_what_a_run_needs(folder):
    code = (
        "import sys, pathlib; from fedtune.report.status_stages import watch_folder;"
        "from fedtune.report.status_words import view_of; import fedtune.report.status_facts,"
        "fedtune.report.dash.server, fedtune.report.status_screen;"
        "print(view_of(watch_folder(pathlib.Path(sys.argv[1])).look()).state,"
        "{'torch', 'flwr', 'transformers'} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(folder.path)], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == "stopped set()"

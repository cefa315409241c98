"""One definition of a line: written through it, read through it, and older lines still read.

``old_run`` was left by fedtune before lines had a schema version: five clients, one of them an
attacker, two rounds, under a geometric median.
"""

import json
import math
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.records.event_log import read_event_log
from fedtune.records.folder import RunFolder
from fedtune.records.lines import (
    ClientRecord,
    RoundRecord,
    UnreadableLineError,
    is_dropped,
    read_record,
)
from fedtune.records.manifest import Manifest
from fedtune.report.dash.page import Source
from fedtune.report.pages.writing import write_page
from fedtune.report.status import Watch
from fedtune.report.status_words import view_of

OLD = Path(__file__).parent / "old_run"


@pytest.fixture
def old(tmp_path):
    shutil.copytree(OLD, tmp_path / "old")
    return RunFolder(tmp_path / "old")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({"round": 1, "evil": 1}, "known keys alone: got evil"),
        ({"round": 1, "clients": {"0": {"wieght": 0.5}}}, "known keys alone: got clients.0.wieght"),
        ({"round": 1, "vote": {"decided": "won"}}, "vote.decided: 'accepted', 'undone' or"),
        ({"round": "1"}, "round: a valid integer"),
        ({"round": 1, "refused": {"0": 3}}, "refused.0: a valid string"),
        ({"round": 1, "train_s": "2"}, "train_s: a valid number"),
        ({}, "round: it is not there"),
    ],
)
def test_what_no_record_has_is_not_written(record, words):
    with pytest.raises(UnreadableLineError, match=words):
        read_record(json.dumps(record), written=True)


def test_a_fact_of_a_wrong_type_is_refused_where_it_is_noted_or_written(tmp_path):
    folder, draft = RunFolder(tmp_path), RoundRecord(round=1)
    for facts in ({"attempt": "2"}, {"sampld": [0]}, {"trial": {"decided": "won"}}):
        with pytest.raises(ValueError, match=next(iter(facts))):
            draft.note(**facts)
    draft.refused[0] = 3
    with pytest.raises(ValueError, match=r"refused\.0: a valid string"):
        folder.append_metrics(draft)
    assert not folder.metrics.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("sampled", {0, 1}), ("upload_bytes", 1.5), ("clients", {0: {"weight": "0.5"}}), ("f", -1)],
)
def test_a_wrong_type_is_refused_where_it_is_assigned(name, value):
    draft = RoundRecord(round=1, clients={0: ClientRecord(weight=0.5)})
    before = draft.model_copy(deep=True)
    with pytest.raises(ValueError, match=rf"(?s)for RoundRecord\n{name}"):
        setattr(draft, name, value)
    with pytest.raises(ValueError, match=r"(?s)for ClientRecord\nweight"):
        draft.clients[0].weight = "0.5"
    assert draft == before


def test_what_is_written_is_what_is_read(tmp_path):
    folder = RunFolder(tmp_path)
    client = {"train_loss": 4.0, "weight": math.nan, "dropped": None, "said": {"x": 1.0}}
    written = folder.append_metrics(
        RoundRecord.model_validate({"round": 3, "try": 1, "clients": {"7": client}})
    )
    (read,) = folder.read_records()
    assert read == written
    assert (read.schema_version, read.try_number, read.clients[7].weight) == (2, 1, None)
    assert read.clients[7].said == {"x": 1.0}
    # the same from the draft of a record
    draft = RoundRecord(round=4)
    draft.sampled = [0, 1]
    draft.refused[1] = "late"
    folder.append_metrics(draft)
    last = json.loads(folder.written_lines()[-1])
    assert {key: last[key] for key in ("round", "sampled", "refused")} == {
        "round": 4, "sampled": [0, 1], "refused": {"1": "late"}}  # fmt: skip


def test_a_manifest_has_no_unknown_facts(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="seeed"):
        folder.write_manifest({"seeed": 1})
    folder.write_manifest({"seed": 1})
    assert folder.read_manifest().seed == 1
    assert RunFolder(tmp_path / "none").read_manifest() == Manifest()


def test_dropped_has_one_definition():
    # ten clients: less than a millionth of a tenth
    weights = {0.0: True, 5e-42: True, 9e-8: True, 1.1e-7: False, -0.1: False, 0.1: False}
    assert {weight: is_dropped(weight, 10) for weight in weights} == weights
    assert is_dropped(None, 10) is None
    clients = {"0": {"weight": 0.5}, "1": {"weight": 5e-42}, "2": {"weight": None}}
    record = RoundRecord.model_validate({"round": 1, "clients": clients, "refused": {"3": "late"}})
    assert record.dropped == {0: False, 1: True, 3: True}


@pytest.mark.parametrize("line", [b"", b"7", b"{", b'{"round": 1, "eval": {"loss": "x"}}', b"\xff"])
def test_what_is_no_line_is_refused(line):
    with pytest.raises(UnreadableLineError):
        read_record(line)


def test_a_key_of_a_later_fedtune_is_passed_over_where_it_is_read():
    assert read_record('{"round": 1, "later": {"a": 1}}') == RoundRecord(round=1)


def test_an_old_folder_reads_as_it_did(old):
    records = old.read_records()
    assert [(each.round, each.schema_version) for each in records] == [(0, 1), (1, 1), (2, 1)]
    plain = [json.loads(line) for line in old.written_lines()]
    for record, line in zip(records, plain, strict=True):  # nothing is lost, nothing made up
        assert json.loads(record.model_dump_json(by_alias=True, exclude_unset=True)) == line
    assert records[1].asked == [0, 1, 2, 3, 4]
    assert old.read_manifest().client_rows == json.loads(old.manifest.read_text())["client_rows"]


def test_an_old_folder_is_shown_and_verified(old):
    status = Watch(old.path).look()
    assert status.recorded.facts.rounds == 2
    assert status.recorded.asked_rounds == dict.fromkeys(range(5), 2)
    shown = dict(view_of(status).facts)["Held-out loss"]
    assert dict(Source(old.path).view()["facts"])["Held-out loss"] == shown
    page = write_page(old.path).read_text(encoding="utf-8")
    assert f"{status.recorded.facts.final['loss']:.3f}" in page
    said = CliRunner().invoke(app, ["verify", str(old.path)])
    assert (said.exit_code, "nothing speaks against this record" in said.output) == (0, True)


def test_an_old_record_that_is_changed_is_found(old):
    old.metrics.write_bytes(old.metrics.read_bytes().replace(b'"round": 2', b'"round":  2', 1))
    said = CliRunner().invoke(app, ["verify", str(old.path)])
    assert said.exit_code == 1
    assert "line 3 of metrics.jsonl is no line of a record" in said.output


def test_why_an_old_run_stopped_is_still_known(old):
    lines = [
        {"at": 1000.5, "kind": "Began", "of": {"pid": 1}},
        {"at": 1001.0, "kind": "RunStarted", "of": {}},
        {"at": 1002.0, "kind": "RoundStarted", "of": {"round": 3, "attempt": 0, "clients": [0]}},
        {"at": 1003.0, "kind": "Stopped", "of": {"reason": "too few", "resumable": False}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (old.path / "progress.jsonl").write_text(text)
    told = read_event_log(old.path)
    assert (told.stopped, told.resumable, told.began_at, len(told.events)) == (
        "too few", False, 1000.5, 1)  # fmt: skip

"""What a client's words can do where people look: terminal, metrics.jsonl, page, trackers.

Every place of a reply that takes text or a number is filled with hostile ones on the real road;
then all that shows a run is made from what the road has recorded. Not proven here: Weights &
Biases, trackio, and terminals that obey what is not a control character.
"""

import io
import json
import math
import re
from html.parser import HTMLParser

import pytest
from breakages import ODD_TEXTS
from good_replies import SHAPES, as_message, good_reply
from hostile_road import HOSTILE, Road, honest, hostile_recipe, numbers_of, words_of
from rich.console import Console

from fedtune.messages.message import Error, Message, MetricRecord, RecordDict
from fedtune.records.events import Replied, RoundFinished, RunStarted
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.report.finished import print_run
from fedtune.report.live import LiveView
from fedtune.round.screening.screen import read_evaluations
from fedtune.runs.trackers import Trackers

NAME = sorted(SHAPES)[0]
TEXTS = [text[:5000] for text in ODD_TEXTS]
HUGE = (1.7976931348623157e308, -1.7976931348623157e308, 5e-324, -0.0, 1e300, float("nan"))
PLACES = {
    "error": lambda reply, text: setattr(reply, "error", Error(2, f"Traceback\nLie: {text}")),
    "hash": lambda reply, text: reply.words.update(base_hash=text),
    "round": lambda reply, text: reply.words.update(round=text),
    "word": lambda reply, text: reply.words.update({text: text * 5000}),
    "record": lambda reply, text: reply.extra.update({text: MetricRecord()}),
    "array": lambda reply, text: reply.arrays.update({text: reply.arrays[NAME]}),
    "dtype": lambda reply, text: reply.arrays[NAME].words.update(dtype=text),
    "stype": lambda reply, text: reply.arrays[NAME].words.update(stype=text),
    "header": lambda reply, text: setattr(
        reply.arrays[NAME], "header", b"\x93NUMPY\x01\x00\x76\x00" + text.encode("utf-8", "replace")
    ),
    "metric": lambda reply, text: reply.metrics.update({text: 1.0}),  # is good, and shown
}  # fmt: skip


def spoilt(place, text):
    def answer(order):
        reply = good_reply(words_of(order), numbers_of(0))
        PLACES[place](reply, text)
        return [as_message(reply, order)]

    return answer


def losing(loss):
    def answer(order):
        reply = good_reply(words_of(order), numbers_of(0))
        reply.metrics["train_loss"] = loss
        return [as_message(reply, order)]

    return answer


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """The records and events of rounds in which every text stood in every place."""
    road = Road(tmp_path_factory.mktemp("road"))
    pairs = [(place, text) for place in PLACES for text in TEXTS]
    records, events = [], []
    for start in range(0, len(pairs), HOSTILE):
        answers = [spoilt(*pair) for pair in pairs[start : start + HOSTILE]]
        answers += [honest(client) for client in range(len(answers), HOSTILE)]
        records.append(finished(road.play(answers), len(records) + 1))
        events += road.events
    answers = [losing(loss) for loss in HUGE]
    answers += [honest(client) for client in range(len(answers), HOSTILE)]
    records.append(finished(road.play(answers), len(records) + 1))
    events += road.events
    return [{"round": 0, "eval": {"loss": 6.0}}, *records], events


def finished(record, number):
    """The record as a round that was stepped would leave it, with evaluations by the clients."""
    told = {0: {"loss": HUGE[0]}, 1: {"loss": 1.0, "\x1b[2J\u202e": 1.0}, 2: {"loss": "<b>"}}
    order = Message(RecordDict(), 2, "evaluate")
    replies = {}
    for client, said in told.items():
        replies[client] = order.reply(RecordDict({"metrics": MetricRecord(said)}))
    replies[3] = order.failed("\x1b[2J<img src=x>", 1)
    figures, refused = read_evaluations(replies)
    shown = {"round": number, "eval": {"loss": 5.0}, "train_s": 1.0, "aggregate_s": 1.0}
    shown["client_eval"] = {str(client): each for client, each in figures.items()}
    shown["evaluation_refused"] = {str(client): each for client, each in refused.items()}
    return {**record, **shown}


def test_every_reason_and_name_that_is_kept_is_one_line_that_prints(played):
    records, events = played
    kept = list(strings(records))
    assert len(kept) > 300
    assert all(text.isprintable() and len(text) <= 300 for text in kept)
    assert all(event.reason.isprintable() for event in events if hasattr(event, "reason"))
    losses = [event.train_loss for event in events if isinstance(event, Replied)]
    assert all(loss is None or math.isfinite(loss) for loss in losses)  # they go on as JSON


def strings(value):
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from strings(key)
            yield from strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from strings(each)


def test_metrics_are_json_that_any_reader_takes(played, tmp_path):
    folder = RunFolder(tmp_path)
    for record in played[0]:
        folder.append_metrics(RoundRecord.model_validate(record))
    raw = folder.metrics.read_bytes()
    raw.decode("ascii")
    lines = raw.split(b"\n")
    assert len(lines) == len(played[0]) + 1

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    assert [json.loads(line, parse_constant=refuse) for line in lines[:-1]]
    assert len(folder.read_metrics()) == len(played[0])


def test_a_round_grows_the_metrics_by_a_bounded_number_of_bytes(tmp_path):
    # 64 metrics, names of 64 signs beyond the first plane: 12 bytes each in JSON, and the number.
    road = Road(tmp_path, hostile=2)

    def most(order):
        reply = good_reply(words_of(order), numbers_of(0))
        names = [f"{chr(0x1F300 + i) * 63}" for i in range(63)]
        reply.metrics = dict.fromkeys(names, -1.2345678901234567e-308) | {"train_loss": 1e-308}
        return [as_message(reply, order)]

    def worst_reason(order):
        return [order.failed("\U0001f600" * 4000)]

    folder = RunFolder(tmp_path)
    folder.append_metrics(RoundRecord.model_validate(road.play([most, worst_reason])))
    assert road.accepted == {0}
    grown = folder.metrics.stat().st_size
    print(f"{grown} bytes by the two worst replies")
    assert grown < 64 * (64 * 12 + 32) + 300 * 12 + 2_000


def test_the_live_view_shows_words_and_obeys_none(played):
    records, events = played
    out = io.StringIO()
    recipe = hostile_recipe()
    with LiveView(Console(file=out, width=80), recipe) as view:
        view(RunStarted(records[:1]))
        for event in events:
            view(event)
        view(RoundFinished(records[1]))
    text = out.getvalue()
    assert text.isascii()
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text.split("\n")) < len(events) + 10


def test_a_terminal_gets_no_codes_but_those_of_its_own(played):
    records, events = played
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    view = LiveView(console, hostile_recipe(), animate=True)
    view(RunStarted(records[:1]))
    for event in events:
        view(event)
        if hasattr(event, "reason"):
            console.print(view.render())
    text = re.sub(r"\x1b\[[0-9;]*m", "", console.file.getvalue())  # colours
    assert all(line.isprintable() for line in text.split("\n"))


class Outline(HTMLParser):
    """The elements of a page, its scripts' texts, and the attributes that can call."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.calls = {}, []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.calls += [name for name, _ in attrs if name.startswith("on") or name == "href"]


def tame(value):
    """The same record with every text of a client's exchanged for letters."""
    if isinstance(value, dict):
        return {key: tame(each) for key, each in value.items()}
    return re.sub(r"[^a-z0-9 ]", "x", value) if isinstance(value, str) else value


@pytest.mark.filterwarnings("error")
def test_the_summary_and_the_page_hold_words_and_no_elements_of_theirs(played, tmp_path):
    outlines, printed = [], []
    for name, records in (("wild", played[0]), ("tame", tame(played[0]))):
        folder = RunFolder(tmp_path / name)
        folder.path.mkdir()
        for record in records:
            folder.append_metrics(RoundRecord.model_validate(record))
        out = io.StringIO()
        print_run(Console(file=out, width=100), hostile_recipe(), folder)
        printed.append(out.getvalue())
        page = (folder.path / "report.html").read_text(encoding="utf-8")
        outlines.append(Outline(page))
    assert all(line.isprintable() for line in printed[0].split("\n"))
    wild, ordinary = outlines
    assert set(wild.tags) == set(ordinary.tags)
    for tag in ("script", "img", "a", "iframe", "style", "title"):
        assert wild.tags.get(tag) == ordinary.tags.get(tag)
    assert wild.calls == ordinary.calls


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's protocol buffers
def test_a_tracker_gets_numbers_and_no_words(played, tmp_path):
    pytest.importorskip("tensorboard")
    recipe = hostile_recipe().model_copy(
        update={"report_to": ["tensorboard"], "output_dir": tmp_path / "run"}
    )
    with Trackers(recipe) as trackers:
        for record in played[0]:
            trackers.log(RoundRecord.model_validate(record))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run" / "trackers" / "run")).Reload()
    known = re.compile(
        r"(eval|time|comm)/[a-z_]+|train/(global_step|loss)|clients/(\d+/(train_loss|weight)|refused)"
    )
    tags = events.Tags()["scalars"]
    others = [tag for tag in tags if not known.fullmatch(tag)]
    # What most clients name, hostile ones too, is a name; it is letters, digits and few signs.
    assert all(re.fullmatch(r"(train|clients/\d+)/[A-Za-z0-9_./-]{1,70}", tag) for tag in others)
    assert len(others) < len(tags)
    assert "clients/refused" in events.Tags()["scalars"]

"""Every bound on a reply: what fills it is taken, and one more is refused. Numbers by hand."""

import threading

import pytest
from good_replies import LAYOUT, Values, as_message, good_reply, npy_header, npy_text
from hostile_road import HandingTransport, Road, honest, numbers_of, words_of

from fedtune.messages import wire
from fedtune.messages.message import ConfigRecord, Message, MetricRecord, RecordDict
from fedtune.round.gather import Limits, gather
from fedtune.round.screening.screen import RefusedError, last_line, read_evaluations

NAME, SHAPE = LAYOUT.shapes[0]  # 2 x 32 numbers of 4 bytes


@pytest.fixture
def refusal(tmp_path):
    """Return a function: how a good reply is stretched -> why it is refused, or None."""
    road = Road(tmp_path, hostile=2)

    def play(stretch):
        def answer(order):
            reply = good_reply(words_of(order), numbers_of(0))
            stretch(reply)
            return [as_message(reply, order)]

        return road.play([answer, honest(1)])["refused"].get("0")

    return play


def with_words(count):
    # Four words belong to every reply.
    return lambda reply: reply.words.update({f"w{i}": i for i in range(count - 4)})


def with_word(size):
    return lambda reply: reply.words.update({"note": "x" * (size - 4)})


def with_list(numbers):
    # 16 bytes a number, 8 of them for its place; "note" is 4.
    return lambda reply: reply.words.update({"note": [1] * numbers})


def with_metrics(count):
    # Two belong to the good reply.
    return lambda reply: reply.metrics.update({f"m{i}": 1.0 for i in range(count - 2)})


def with_header(size):
    # Magic and version are 8 bytes, the length 2, the newline 1.
    text = npy_text(SHAPE)
    padded = npy_header(text + " " * (size - 11 - len(text)) + "\n", pad=False)
    assert len(padded) == size
    return lambda reply: setattr(reply.arrays[NAME], "header", padded)


def with_body(size):
    def stretch(reply):
        old = reply.arrays[NAME]
        reply.arrays[NAME] = Values(old.words, old.header, (old.body * 2)[:size])

    return stretch


def with_weight(over):
    """So heavy a reply, by metrics that carry lists, as the layout allows, and some bytes more."""

    def stretch(reply):
        for number in range(60):
            reply.metrics[f"m{number:02}"] = [1.0] * 250  # 3 + 250 * 16 = 4003 bytes
            now = wire.count_bytes(as_message(reply, Message(RecordDict(), 2, "train")))
        # 224 numbers of 4 bytes, four headers of 1024, 256 KiB of words.
        left = 224 * 4 + 4 * 1024 + 2**18 + over - now
        words, rest = divmod(left - 200, 4096)  # each of a name of 2 signs and a text
        for number in range(words):
            reply.words[f"{number:02}"] = "x" * 4094
        reply.words["yy"] = "x" * (rest + 198)

    return stretch


@pytest.mark.parametrize(
    ("make", "most", "reason"),
    [
        (with_words, 32, "needs at most 32 words about itself; got 33"),
        (with_word, 4096, "word 'note' needs at most 4096 bytes"),
        (with_list, 255, "word 'note' needs at most 4096 bytes"),
        (with_metrics, 64, "needs at most 64 metrics; got 65"),
        (with_header, 1024, f"{NAME} needs at most 256 bytes; got 1281"),
        (with_body, 256, f"{NAME} needs 256 bytes of values; got 257"),
        (with_weight, 0, "its reply of 267137 bytes is more than any good one"),
    ],
)
def test_what_fills_a_bound_is_taken_and_one_more_is_refused(refusal, make, most, reason):
    assert refusal(make(most)) is None
    assert refusal(make(most + 1)) == reason


def test_a_body_that_lacks_a_byte_is_refused(refusal):
    assert refusal(with_body(255)) == f"{NAME} needs 256 bytes of values; got 255"


def test_an_introduction_may_weigh_a_quarter_of_a_mebibyte():
    # The record's name "about" is 5 bytes, the word's "note" 4.
    def introduce(size):
        def answer(order):
            return [order.reply(RecordDict({"about": ConfigRecord({"note": "x" * size})}))]

        return answer

    transport = HandingTransport([introduce(2**18 - 9), introduce(2**18 - 8)])
    orders = {client: Message(RecordDict(), client + 2, "query") for client in (0, 1)}
    limits = Limits(None, wire.MAX_WORDS_BYTES)
    gathered = gather(transport, orders, limits=limits, stop=threading.Event())
    assert set(gathered.by_client()) == {0}
    assert gathered.refused == {1: "its reply of 262145 bytes is more than any good one"}


def test_an_evaluation_may_hold_64_figures():
    order = Message(RecordDict(), 2, "evaluate")

    def reply(count):
        figures = MetricRecord({"loss": 1.0} | {f"m{i}": 1.0 for i in range(count - 1)})
        return order.reply(RecordDict({"metrics": figures}))

    figures, refused = read_evaluations({0: reply(64), 1: reply(65)})
    assert set(figures) == {0}
    assert refused == {1: "needs at most 64 metrics; got 65"}


def test_a_reason_is_cut_to_300_signs_and_a_traceback_to_its_last_page():
    assert len(str(RefusedError("x" * 301))) == 300
    assert last_line("first\n" + " " * 4091 + "last\n\n") == "last"
    assert last_line("first\n" + " " * 5000) == "no reason given"

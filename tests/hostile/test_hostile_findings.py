"""What the campaigns found, one test each: every one of these once passed, or ended the run.

Each was seen to fail before its fix. What was found in Flower's deserializing stands in
test_hostile_wire.
"""

import warnings

import pytest
from good_replies import BASE, SHAPES, TOKENIZER, as_message, forced, good_reply, npy_header
from hostile_road import Road, honest, numbers_of, words_of

from fedtune.messages import wire
from fedtune.messages.message import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.round.roster import read_roster
from fedtune.round.screening.screen import RefusedError, content_of, read_evaluations

NAME = sorted(SHAPES)[0]


@pytest.fixture
def refusal(tmp_path):
    """Return a function: how a good reply is spoilt -> why the round refuses it, alone of all."""
    road = Road(tmp_path, hostile=2)

    def play(spoil):
        def answer(order):
            reply = good_reply(words_of(order), numbers_of(0))
            changed = spoil(reply)
            return [as_message(reply, order) if changed is None else changed(order)]

        record = road.play([answer, honest(1)])
        assert 1 in road.accepted
        assert (0 in road.accepted) == ("0" not in record["refused"])
        return record["refused"].get("0")

    return play


@pytest.mark.parametrize("word", [True, 1.0])
def test_what_is_equal_to_the_round_is_not_yet_the_round(refusal, word):
    assert refusal(lambda reply: reply.words.update(round=word)) == (
        f"it answers round {word!r}; need round 1"
    )


def test_the_words_about_an_array_must_fit_its_numbers(refusal):
    said = refusal(lambda reply: reply.arrays[NAME].words.update(dtype="float64"))
    assert said == f"{NAME} needs float32; got 'float64'"
    said = refusal(lambda reply: reply.arrays[NAME].words.update(shape=(2.0, 32.0)))
    assert said == f"{NAME} needs shape (2, 32); got (2.0, 32.0)"


def test_a_header_of_pythons_older_or_odder_spelling_is_never_parsed(refusal):
    # numpy's reader hands it to Python's parser, which warns on the server's own terminal.
    def spell(text):
        return lambda reply: setattr(reply.arrays[NAME], "header", npy_header(text))

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for text in (
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 32L), }",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 32), '\\d': 1}",
        ):
            assert "needs the npy header" in refusal(spell(text))
    assert warned == []


def test_a_reason_cannot_command_the_terminal(refusal):
    def cry(_):
        error = Error(2, "Traceback\nValueError: \x1b[2J\x1b]0;owned\x07 \u202etxt\u2069 \ud800")
        return lambda order: order.failed(error.reason, error.code)

    assert refusal(cry) == "the client failed: ValueError: ?[2J?]0;owned? ?txt? ?"
    said = refusal(lambda reply: reply.words.update(base_hash="\x1b[2J\x1b[H"))
    assert said == f"base_hash differs: need {BASE[:12]}, got ?[2J?[H"


def test_a_reply_that_is_neither_an_answer_nor_an_error_does_not_end_the_run(refusal):
    assert refusal(lambda reply: setattr(reply, "envelope", "neither")) == (
        "its reply holds neither an answer nor an error"
    )


@pytest.mark.parametrize("odd", [None, 3, "records"])
def test_content_that_cannot_be_weighed_does_not_end_the_run(refusal, odd):
    said = refusal(lambda reply: reply.extra.update(delta=odd))
    assert said == "its reply cannot be weighed: AttributeError"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: setattr(reply, "error", Error(2, "x" * 300_000)),
        lambda reply: reply.extra.update({"x" * 300_000: ConfigRecord()}),
        lambda reply: reply.extra.update({f"record {i}": MetricRecord() for i in range(30_000)}),
        lambda reply: reply.arrays[NAME].words.update(stype="x" * 300_000),
        lambda reply: reply.arrays[NAME].words.update(dtype="x" * 300_000),
        lambda reply: reply.arrays[NAME].words.update(shape=(1,) * 40_000),
    ],
)
def test_all_that_a_client_chooses_is_weighed(refusal, spoil):
    said = refusal(spoil)
    assert said.startswith("its reply of 3")
    assert said.endswith("bytes is more than any good one")


@pytest.mark.parametrize("odd", [None, {"a": 1}, [[1]], [1, None], (1,), bytearray(b"x")])
def test_a_word_or_metric_that_flower_would_not_carry_is_refused(refusal, odd):
    assert "word 'note' needs text or a number" in refusal(lambda r: r.words.update(note=odd))
    assert "metric 'loss' needs a number" in refusal(lambda r: r.metrics.update(loss=odd))


def test_names_of_metrics_are_kept_as_signs_that_print(tmp_path):
    content = RecordDict({"metrics": MetricRecord({"\x1b[2J\u202e" + "x" * 100: 1.0, "loss": 2.0})})
    reply = Message(RecordDict(), 2, "evaluate").reply(content)
    figures, _ = read_evaluations({0: reply})
    assert figures == {0: {"?[2J?" + "x" * 59: 1.0, "loss": 2.0}}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "it holds neither an answer nor an error"),
        (RecordDict(), "needs the record 'metrics'; got []"),
        (RecordDict({"metrics": ArrayRecord()}), "unreadable: KeyError: 'metrics'"),
        (RecordDict({"metrics": MetricRecord({"loss": 1.0}), "\n": ConfigRecord()}), "needs the"),
        (RecordDict({"metrics": forced(MetricRecord, {"loss": None})}), "metric 'loss' needs a"),
        (RecordDict({"metrics": forced(MetricRecord, {None: 1.0})}), "metric None needs a"),
        (RecordDict({"metrics": MetricRecord({"loss": 10**400})}), "unreadable: OverflowError"),
        (RecordDict({"metrics": MetricRecord({"loss": float("nan")})}), "it gives no finite loss"),
    ],
)
def test_an_odd_evaluation_is_refused_and_the_others_stand(content, reason):
    order = Message(RecordDict(), 2, "evaluate")
    odd = order.reply(content)
    good = order.reply(RecordDict({"metrics": MetricRecord({"loss": 1.0})}))
    figures, refused = read_evaluations({0: odd, 1: good})
    assert figures == {1: {"loss": 1.0}}
    assert refused[0].startswith(reason)


def introductions(*words):
    order = Message(RecordDict(), 2, "query")
    hashes = {"base_hash": BASE, "tokenizer_hash": TOKENIZER, "anchor_hash": ""}
    replies = {}
    for node, said in enumerate(words):
        record = forced(ConfigRecord, hashes | said)
        replies[node] = order.reply(RecordDict({"about": record}))
    return read_roster(replies, len(words), wire.Agreement(BASE, TOKENIZER, ""))


@pytest.mark.parametrize(
    "number", [True, 1.0, 10**5000, -1, None, [1], "1", {1: 1}], ids=lambda it: type(it).__name__
)
def test_a_number_that_is_none_is_no_clients(number):
    roster = introductions({"client": 0}, {"client": number})
    assert roster.nodes == {0: 0}
    assert "it says that it is client" in roster.absent[1]
    assert roster.absent[1].isprintable()


def test_who_is_there_is_not_made_absent_by_one_who_claims_its_number():
    # The liar comes first, names client 1 and a foreign base: client 1 was asked, and refused too.
    roster = introductions({"client": 1, "base_hash": "foreign"}, {"client": 1})
    assert roster.nodes == {1: 1}
    assert set(roster.absent) == {0}


def test_the_screen_itself_raises_nothing_but_a_refusal():
    reply = Message(RecordDict(), 2, "train").reply(None)
    with pytest.raises(RefusedError, match="neither an answer nor an error"):
        content_of(reply)


def test_a_node_that_is_known_by_its_key_fails_under_its_own_number():
    order = Message(RecordDict(), 2, "query")
    replies = {7: order.failed("x\nOSError: no \x1bmodel")}
    agreement = wire.Agreement(BASE, TOKENIZER, "")
    roster = read_roster(
        replies, 3, agreement, known={7: 2, 8: 0}, unread={8: "its reply is too much"}
    )
    assert roster.absent == {
        0: "its reply is too much",
        1: "it did not introduce itself",
        2: "it failed to start: OSError: no ?model",
    }

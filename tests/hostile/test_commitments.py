"""A reply that was committed to opens, and nothing else does.

Not proven here: that SHA-256 has no collisions, and that whoever drives the two steps closes the
first before it opens the second.
"""

import hashlib
import os
from dataclasses import asdict

import pytest
from breakages import broken_replies
from good_replies import BASE, SHAPES, TOKENIZER, as_content, forced, good_reply
from hostile_road import numbers_of
from hypothesis import HealthCheck, given, settings

from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from fedtune.round.screening.commitments import Occasion, check, collect, commit
from fedtune.round.screening.screen import RefusedError

SALT = bytes(range(32))
HERE = Occasion("run of today", 3, 1)
WORDS = {"round": 3, "base_hash": BASE, "tokenizer_hash": TOKENIZER, "anchor_hash": "ab" * 32}
NAME = sorted(SHAPES)[0]


def reply_of(client=1):
    return as_content(good_reply(WORDS, numbers_of(client)))


def refusal(commitment, reply, salt=SALT, occasion=HERE):
    with pytest.raises(RefusedError) as caught:
        check(commitment, reply, salt, occasion)
    return str(caught.value)


def test_the_hash_is_that_of_parts_laid_out_by_hand():
    # Each part behind its length in eight bytes, little-endian: the occasion, the salt, then one
    # record, named "b": a ConfigRecord of one word, "k": the list [True, -17].
    parts = [b"fedtune: a reply to one round, version 2", b"r", b"7", b"5", b"12", SALT]
    parts += [b"1", b"b", b"ConfigRecord", b"1", b"k", b"list", b"2", b"bool", b"1", b"int", b"-11"]
    laid = b"".join(len(part).to_bytes(8, "little") + part for part in parts)
    reply = RecordDict({"b": forced(ConfigRecord, {"k": [True, -17]})})
    assert commit(reply, SALT, Occasion("r", 7, 12, 5)) == hashlib.sha256(laid).hexdigest()


def test_what_was_committed_to_opens_whatever_the_order_of_names():
    commitment = commit(reply_of(), SALT, HERE)
    check(commitment, reply_of(), SALT, HERE)
    turned = good_reply(WORDS, numbers_of(1))
    turned.arrays = dict(reversed(turned.arrays.items()))
    turned.words = dict(reversed(turned.words.items()))
    turned.records.reverse()
    check(commitment, as_content(turned), SALT, HERE)


def test_a_commitment_copied_from_another_client_does_not_open():
    honest = commit(reply_of(), SALT, HERE)
    taken, refused = collect([(1, honest), (2, honest)], [1, 2])
    assert (taken, refused) == ({1: honest, 2: honest}, {})  # who copied whom is not seen yet
    check(taken[1], reply_of(), SALT, HERE)
    # The copier waits until client 1 has shown reply and salt, and shows the same.
    said = refusal(taken[2], reply_of(), SALT, Occasion(HERE.run, HERE.round, 2))
    assert said.startswith("its reply is not what it committed to in round 3: need ")


def bits_of(reply):
    """Every reply that differs from this one by a single bit of an array."""
    for name in SHAPES:
        body = reply.arrays[name].body
        for at in range(0, len(body), 7):
            for bit in (0, 3, 7):
                changed = bytes([body[at] ^ 1 << bit])
                reply.arrays[name].body = body[:at] + changed + body[at + 1 :]
                yield as_content(reply)
        reply.arrays[name].body = body


def test_a_late_change_of_one_bit_does_not_open():
    commitment = commit(reply_of(), SALT, HERE)
    reply = good_reply(WORDS, numbers_of(1))
    changed = [refusal(commitment, content) for content in bits_of(reply)]
    assert len(changed) > 300
    assert all("not what it committed to" in said for said in changed)
    check(commitment, as_content(reply), SALT, HERE)


@pytest.mark.parametrize(
    "change",
    [
        lambda reply: reply.words.update(round=4),
        lambda reply: reply.words.update(round=3.0),
        lambda reply: reply.words.update(round="3"),
        lambda reply: reply.words.update(base_hash=BASE[:-1] + "x"),
        lambda reply: reply.words.update(more=""),
        lambda reply: reply.words.pop("anchor_hash"),
        lambda reply: reply.metrics.update(train_loss=1.5000000000000002),
        lambda reply: reply.metrics.update(entropy=[0.25]),
        lambda reply: reply.arrays[NAME].words.update(dtype="float64"),
        lambda reply: reply.arrays[NAME].words.update(shape=(64,)),
        lambda reply: reply.arrays[NAME].words.update(shape=(32, 2)),
        lambda reply: reply.arrays.update({NAME + " ": reply.arrays.pop(NAME)}),
        lambda reply: reply.records.remove("metrics"),
        lambda reply: reply.extra.update(more=MetricRecord()),
    ],
)
def test_a_late_change_of_anything_else_does_not_open(change):
    commitment = commit(reply_of(), SALT, HERE)
    reply = good_reply(WORDS, numbers_of(1))
    change(reply)
    assert "not what it committed to" in refusal(commitment, as_content(reply))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": "bc"}, {"ab": "c"}),
        ({"a": ["bc"]}, {"a": ["b", "c"]}),
        ({"a": ["b"], "c": 1}, {"a": ["b", "c"]}),
        ({"a": 1}, {"a": True}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": "1"}, {"a": b"1"}),
        ({"a": 0.0}, {"a": -0.0}),
        ({"a": 16}, {"a": "10"}),
        ({"a": []}, {"a": ""}),
    ],
)
def test_two_ways_to_cut_the_same_signs_are_two_replies(one, other):
    hashes = [commit(RecordDict({"about": ConfigRecord(it)}), SALT, HERE) for it in (one, other)]
    assert hashes[0] != hashes[1]


def test_two_kinds_of_record_are_two_replies():
    hashes = {
        commit(RecordDict({"about": kind()}), SALT, HERE)
        for kind in (ArrayRecord, ConfigRecord, MetricRecord)
    }
    assert len(hashes) == 3


@pytest.mark.parametrize(
    "other",
    [
        Occasion(HERE.run, 2, 1),  # replayed from the round before
        Occasion(HERE.run, 33, 1),
        Occasion(HERE.run, 3, 1, 1),  # of another try
        Occasion(HERE.run, 3, 11),
        Occasion(HERE.run, 31, 1),  # "3" and "1" are not "31" and ""
        Occasion("run of yesterday", 3, 1),
        Occasion(HERE.run + "3", 3, 1),
    ],
)
def test_a_commitment_of_another_round_client_or_run_does_not_open(other):
    old = commit(reply_of(), SALT, other)
    assert "not what it committed to" in refusal(old, reply_of())


def test_who_commits_not_or_twice_is_refused():
    first, second = (commit(reply_of(client), SALT, HERE) for client in (1, 2))
    sent = [(3, first), (1, first), (1, second), (2, second), (2, second), (9, first)]
    taken, refused = collect(sent, [0, 1, 2, 3])
    assert taken == {3: first}
    assert refused == {
        0: "it committed 0 times; need one commitment",
        1: "it committed 2 times; need one commitment",
        2: "it committed 2 times; need one commitment",
    }
    assert refusal(taken.get(0), reply_of()) == "it sent a reply without a commitment"


@pytest.mark.parametrize(
    "odd",
    [None, "", b"\0" * 32, 7, True, "0" * 63, "0" * 65, "A" * 64, "0" * 64 + "\n", ["0" * 64]],
)
def test_a_commitment_that_is_no_hash_is_refused(odd):
    assert collect([(0, odd)], [0]) == ({}, {0: "its commitment is no SHA-256 in hex"})


@pytest.mark.parametrize("salt", [None, b"", SALT[:31], SALT + b"\0", "x" * 32, bytearray(SALT), 7])
def test_a_salt_is_32_bytes(salt):
    commitment = commit(reply_of(), SALT, HERE)
    assert (
        refusal(commitment, reply_of(), salt) == "it opens its commitment with no salt of 32 bytes"
    )
    with pytest.raises(ValueError, match="needs a salt of 32 bytes"):
        commit(reply_of(), salt, HERE)


def test_another_salt_is_another_commitment_and_opens_none():
    commitment = commit(reply_of(), SALT, HERE)
    other = os.urandom(32)
    assert commit(reply_of(), other, HERE) != commitment
    assert "not what it committed to" in refusal(commitment, reply_of(), other)


def test_a_large_reply_is_hashed_piece_by_piece():
    import tracemalloc

    record = forced(ArrayRecord, {"a": Array("float32", (1,), "numpy.ndarray", b"\0" * 10**7)})
    reply = RecordDict({"delta": record})
    tracemalloc.start()
    commit(reply, SALT, HERE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def arrays_of(content):
    """A shape is a tuple here and a list on the wire: that is no difference."""
    found = {name: asdict(array) for name, array in content["delta"].items()}
    return {name: {**words, "shape": repr([*words["shape"]])} for name, words in found.items()}


@settings(
    max_examples=300,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(broken_replies(WORDS, numbers_of(1)))
def test_a_broken_reply_opens_only_if_it_is_the_same(reply):
    commitment = commit(reply_of(), SALT, HERE)
    content = as_content(reply)
    try:
        check(commitment, content, SALT, HERE)
    except RefusedError:
        return
    honest = reply_of()
    assert set(content) == set(honest)
    assert dict(content["about"]) == dict(honest["about"])
    assert dict(content["metrics"]) == dict(honest["metrics"])
    assert arrays_of(content) == arrays_of(honest)

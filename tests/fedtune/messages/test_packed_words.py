"""The words of a packed message, JSON of a stranger's: each bit is kept, and the rest refused."""

import json
import math
import struct
import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedtune.messages import packing
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import ConfigRecord, MetricRecord, RecordDict


def worded(text):
    """A message of no arrays whose words are this text."""
    text = text if isinstance(text, bytes) else json.dumps(text).encode()
    body = len(text).to_bytes(8, "little") + text
    return b"".join(packing._framed([body], b"n" * 32))


def number_of(bits):
    """A float64 by its bits; Python writes all that are no number as one."""
    return struct.unpack("<d", bits.to_bytes(8, "little"))[0]


ODD_WORDS = {
    "no number": number_of(0x7FF8000000000000),
    "another": number_of(0xFFF8000000000001),
    "one that signals": number_of(0x7FF0000000000001),
    "infinite": -math.inf,
    "zero": -0.0,
    "the least": 5e-324,
    "a third": 1 / 3,
    "one": 1,
    "one as a float": 1.0,
    "true": True,
    "the most": 2**64 - 1,
    "the fewest": -(2**63),
    "nothing": "",
    "signs": '\0\x1b[2J\u2028\u202e\ufeff\U0001f600"\\',
    "bytes": bytes(range(256)),
    "no bytes": b"",
    "no list": [],
    "numbers": [number_of(0xFFF8000000000000), math.inf, 0.1],
    "many bytes": [b"", b"{}"],
    "words": ["", "a"],
    "": [True, False],
    "\U0001f600": [0, -1],
}


def test_every_bit_of_every_word_comes_out():
    """Else an honest client's reply would not be the one that it committed to."""
    numbers = {key: each for key, each in ODD_WORDS.items() if type(each) in (int, float)}
    sent = RecordDict({"about": ConfigRecord(ODD_WORDS), "metrics": MetricRecord(numbers)})
    found = packing.unpack(packing.pack(sent))
    assert hash_reply(found) == hash_reply(sent)
    assert list(found["about"]) == list(ODD_WORDS)


def test_half_a_sign_is_not_sent():
    for content in ({"about": ConfigRecord({"a": "\ud83d"})}, {"\ud83d": ConfigRecord()}):
        with pytest.raises(ValueError, match="surrogates"):
            packing.pack(RecordDict(content))


def valued(value, kind="words"):
    """A message of one record with one value, as JSON."""
    return worded(b'[["about","%s",[["a",%s]]]]' % (kind.encode(), value))


WRONG_VALUES = {
    "null": b"null", "NaN": b"NaN", "infinite": b"-Infinity", "2**64": b"%d" % 2**64,
    "-2**63 - 1": b"%d" % -(2**63 + 1), "ten thousand digits": b"9" * 10_000,
    "a list in a list": b"[[1]]", "of two types": b"[1,1.0]", "null in a list": b"[null]",
    "an object": b"{}", "of another name": b'{"x":"AQ=="}', "of two": b'{"bytes":"","float":""}',
    "no base64": b'{"bytes":"A"}', "other signs": b'{"bytes":"A\\u00e9=="}',
    "bytes of a number": b'{"bytes":1}', "bytes of a list": b'{"bytes":["AQ=="]}',
    "bytes in bytes": b'{"bytes":{"bytes":"AQ=="}}', "no hex": b'{"float":"zz"}',
    "half a float": b'{"float":"00000000"}', "a float of a number": b'{"float":1.0}',
    "half a sign": b'"\\ud83d"', "a deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"bytes":' * 50_000 + b"1" + b"}" * 50_000,
    "900 deep": b"[" * 900 + b"]" * 900,
}  # fmt: skip


@pytest.mark.parametrize("how", WRONG_VALUES)
def test_a_value_that_no_record_holds_is_refused(how):
    with pytest.raises(ValueError, match=r"."):
        packing.unpack(valued(WRONG_VALUES[how]))


@pytest.mark.parametrize("value", [b"true", b'"1"', b'{"bytes":"AQ=="}', b'["a"]', b"[true]"])
def test_metrics_are_numbers(value):
    with pytest.raises(ValueError, match="holds no"):
        packing.unpack(valued(value, "metrics"))
    assert len(packing.unpack(valued(value))["about"]) == 1


WRONG_WORDS = [
    None, True, 1, "about", {}, {"about": []}, [None], [1], ["abc"], [[]], [["about", "words"]],
    [["about", "words", [], []]], [[1, "words", []]], [[None, "words", []]], [[[], "words", []]],
    [["about", "arrays", []]], [["about", 1, []]], [["about", [], []]], [["about", "words", {}]],
    [["about", "words", None]], [["about", "words", "ab"]], [["about", "words", ["ab"] * 2]],
    [["about", "words", [["a"]]]], [["about", "words", [["a", 1, 1]]]],
    [["about", "words", [[1, 1]]]], [["about", "words", [[None, 1]]]],
    [["about", "words", [[["a"], 1]]]], [["about", "words", [["a", 1], ["a", 2]]]],
    [["about", "words", []], ["about", "metrics", []]], [["\ud83d", "words", []]],
    [["about", "words", [["\udfff", 1]]]],
]  # fmt: skip


@pytest.mark.parametrize("words", WRONG_WORDS, ids=lambda words: json.dumps(words)[:60])
def test_words_of_another_form_are_refused(words):
    with pytest.raises(ValueError, match=r"."):
        packing.unpack(worded(words))


@pytest.mark.parametrize(
    "text",
    [b"", b"[", b"[] []", b"\xef\xbb\xbf[]", "[]".encode("utf-16"), b"[]\0", b"\xed\xa0\x80"],
)
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        packing.unpack(worded(text))


def test_too_many_records_of_words_are_refused():
    names = [[f"{number}", "words", []] for number in range(packing.MAX_RECORDS + 1)]
    assert len(packing.unpack(worded(names[1:]))) == packing.MAX_RECORDS
    with pytest.raises(ValueError, match="at most 64 records"):
        packing.unpack(worded(names))


@pytest.mark.parametrize(
    "item", [b"[]", b"{}", b'{"":0}', b"0.5", b"9999", b'"\xc3\xa9"', b'["",""]', b"9" * 4000]
)
def test_words_of_the_greatest_size_take_a_bounded_memory(item):
    count = (packing.MAX_WORDS_BYTES - 64) // (len(item) + 1)
    blob = valued(b"[" + b",".join([item] * count) + b"]")
    tracemalloc.start()
    with suppress(ValueError):
        packing.unpack(blob)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 60 * packing.MAX_WORDS_BYTES


scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3)
    | st.sampled_from(["bytes", "float", "words", "metrics", "AQ==", "00000000000000f0"])
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "float", "a"]), inner, max_size=2)
    ),
    max_leaves=6,
)
pairs = st.lists(st.tuples(st.text(max_size=2), values) | values, max_size=3)
records = st.tuples(st.text(max_size=2), st.sampled_from(["words", "metrics", "x"]), pairs)


@given(st.lists(records | values, max_size=3) | values)
def test_what_is_taken_of_any_json_is_what_flower_would_carry_and_packs_again(words):
    try:
        found = packing.unpack(worded(words))
    except ValueError:
        return
    for record in found.values():
        for value in record.values():
            items = value if type(value) is list else [value]
            kinds = {type(item) for item in items}
            assert kinds <= {bool, int, float, str, bytes}
            assert len(kinds) < 2
    assert hash_reply(packing.unpack(packing.pack(found))) == hash_reply(found)

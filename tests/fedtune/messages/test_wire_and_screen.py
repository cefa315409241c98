"""What crosses the network arrives to the bit; what is malformed is refused by name and reason.

Not proven here: that a well-formed lie is harmless; that is the rule's work.
"""

import io
import pickle
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_federation import LAYOUT, toy_app

from fedtune.messages import wire
from fedtune.messages.message import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.round.screening.screen import RefusedError, content_of, screen_content
from fedtune.transport.local import LocalTransport

AGREEMENT = wire.Agreement("base" * 16, "tokenizer" * 7, "anchor" * 10)
DELTA = torch.arange(16, dtype=torch.float32) - 3.25


@pytest.fixture(autouse=True)
def _runtime():
    LocalTransport(toy_app(), 1)  # Flower makes no message outside a runtime


def honest_content():
    return wire.train_reply(DELTA, LAYOUT, round_=3, agreement=AGREEMENT, train_loss=2.5)


def message(content):
    request = Message(RecordDict(), 2, "train")
    return request.reply(content)


def read(content):
    content = content_of(message(content))
    return screen_content(content, LAYOUT, round_=3, agreement=AGREEMENT)


def refusal(content):
    with pytest.raises(RefusedError) as caught:
        read(content)
    return str(caught.value)


def npy(values, **options):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, values, **options)
    return stream.getvalue()


def array(values, data=None):
    """An Array whose words are right for ``values``, and whose bytes are what the test says."""
    return Array(
        str(values.dtype),
        tuple(values.shape),
        "numpy.ndarray",
        npy(values) if data is None else data,
    )


def with_array(name, new):
    content = honest_content()
    content.array_records[wire.DELTA][name] = new
    return content


A = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_a_row_goes_out_and_comes_back_to_the_bit():
    # 1e-45 is the least float32 there is, 3.4e38 about the greatest; -0.0 keeps its sign.
    row = torch.tensor([1e-45, 3.4e38, -0.0, 1 / 3] * 4)
    back = wire.from_arrays(wire.to_arrays(row, LAYOUT), LAYOUT)
    assert back.numpy().tobytes() == row.numpy().tobytes()


def test_an_honest_reply_is_read_to_the_bit_with_its_metrics():
    row, metrics = read(honest_content())
    assert row.numpy().tobytes() == DELTA.numpy().tobytes()
    assert metrics == {"train_loss": 2.5}


def test_what_was_read_is_the_servers_own_memory():
    content = honest_content()
    row, _ = read(content)
    row.zero_()
    again, _ = read(content)
    assert torch.equal(again, DELTA)


def test_names_in_another_order_land_in_their_own_place():
    content = honest_content()
    arrays = content.array_records[wire.DELTA]
    content[wire.DELTA] = ArrayRecord({name: arrays[name] for name in ("c", "b", "a")})
    assert torch.equal(read(content)[0], DELTA)


def test_a_client_that_swaps_two_names_has_sent_swapped_values():
    # a is columns 0-5, b 6-11: what it sent as a lies under a, so that the rule sees the lie.
    content = honest_content()
    arrays = content.array_records[wire.DELTA]
    content[wire.DELTA] = ArrayRecord({"a": arrays["b"], "b": arrays["a"], "c": arrays["c"]})
    row, _ = read(content)
    assert row.tolist() == [*DELTA[6:12].tolist(), *DELTA[0:6].tolist(), *DELTA[12:].tolist()]


def test_the_hash_of_a_row_knows_values_and_layout():
    row = torch.zeros(16)
    moved = row.clone()
    moved[7] = 1e-45
    assert wire.hash_row(row, LAYOUT) == wire.hash_row(torch.zeros(16), LAYOUT)
    assert wire.hash_row(row, LAYOUT) != wire.hash_row(moved, LAYOUT)
    renamed = type(LAYOUT)((("a", (2, 3)), ("b", (3, 2)), ("c", (4,))))
    assert wire.hash_row(row, LAYOUT) != wire.hash_row(row, renamed)


def test_an_error_reply_gives_the_last_line_of_its_reason():
    failed = Message(RecordDict()).failed("Traceback ...\n  line 3\nValueError: no rows\n")
    with pytest.raises(RefusedError, match=r"^the client failed: ValueError: no rows$"):
        screen_content(content_of(failed), LAYOUT, round_=3, agreement=AGREEMENT)


def without(record):
    content = honest_content()
    del content[record]
    return content


def with_record(name, record):
    content = honest_content()
    content[name] = record
    return content


def with_word(key, value):
    content = honest_content()
    content.config_records[wire.ABOUT][key] = value
    return content


def without_array(name):
    content = honest_content()
    del content.array_records[wire.DELTA][name]
    return content


def header(shape, *, descr="<f4", fortran=False, body=b"\0" * 24):
    stream = io.BytesIO()
    words = {"descr": descr, "fortran_order": fortran, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, words)
    return stream.getvalue() + body


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda: without("metrics"), "needs records"),
        (lambda: without("delta"), "needs records"),
        (lambda: with_record("more", ConfigRecord()), "needs records"),
        (lambda: with_record("delta", ConfigRecord()), "'delta' needs ArrayRecord"),
        (lambda: with_record("about", MetricRecord()), "'about' needs ConfigRecord"),
        (lambda: with_record("metrics", ArrayRecord()), "'metrics' needs MetricRecord"),
        (lambda: without_array("b"), "lacks 'b'"),
        (lambda: with_array("d", array(A)), "brings 'd'"),
        (lambda: with_record("delta", ArrayRecord()), "got 0, lacks 'a'"),
        (lambda: with_array("a", array(A.T.copy())), "a needs shape"),
        (lambda: with_array("a", array(A[:1])), "a needs"),
        (lambda: with_array("a", Array("float32", (3, 2), "numpy.ndarray", npy(A))), "a needs"),
        (lambda: with_array("a", array(A, npy(A.T.copy()))), "a needs the npy header {'descr'"),
        (lambda: with_array("a", array(A.astype("f8"))), "a needs float32; got 'float64'"),
        (lambda: with_array("a", array(A.astype("f2"))), "a needs float32; got 'float16'"),
        (lambda: with_array("a", array(A.astype("i4"))), "a needs float32; got 'int32'"),
        (lambda: with_array("a", array(A.astype(">f4"))), "a needs float32; got '>f4'"),
        (lambda: with_array("a", array(A, npy(A.astype("f8")))), "got b\"{'descr': '<f8', 'fort"),
        (lambda: with_array("a", array(A, npy(A.astype(">f4")))), "got b\"{'descr': '>f4', 'fort"),
        (lambda: with_array("a", array(A, npy(np.asfortranarray(A)))), "'fortran_order': True"),
        (lambda: with_array("a", array(A, npy(A, version=(2, 0)))), "an npy header of version 1.0"),
        (lambda: with_array("a", array(A, npy(A)[:-1])), "a needs 24 bytes of values; got 23"),
        (lambda: with_array("a", array(A, npy(A) + b"\0")), "a needs 24 bytes of values; got 25"),
        (lambda: with_array("a", array(A, npy(A) + b"\0" * 4096)), "a needs at most 24 bytes"),
        (lambda: with_array("a", array(A, b"")), "an npy header of version 1.0; got b''"),
        (lambda: with_array("a", array(A, b"PK\x03\x04" + b"\0" * 60)), "got b'PK\\x03\\x04"),
        (lambda: with_array("a", array(A, npy(A)[:40])), "an npy header of version 1.0"),
        (lambda: with_array("a", Array("float32", (2, 3), "torch.save", npy(A))), "numpy's format"),
        (lambda: with_array("a", array(A * np.float32("nan"))), "a holds a value that is not"),
        (lambda: with_array("a", array(A / np.float32(1e-45))), "a holds a value that is not"),
        (lambda: with_word("round", 2), "it answers round 2; need round 3"),
        (lambda: with_word("round", "3"), "it answers round '3'; need round 3"),
        (lambda: with_word("base_hash", "other"), "differs: need basebasebase, got other"),
        (lambda: with_word("tokenizer_hash", "other"), "tokenizer_hash differs"),
        (lambda: with_word("anchor_hash", "other"), "anchor_hash differs"),
        (lambda: with_word("anchor_hash", 7), "anchor_hash differs"),
        (lambda: with_record("about", ConfigRecord({"round": 3})), "base_hash differs"),
        (lambda: with_record("about", ConfigRecord()), "it answers round None"),
        (lambda: with_word("note", "x" * 5000), "word 'note' needs at most"),
        (lambda: with_word("note", b"x" * 5000), "word 'note' needs at most"),
        (lambda: with_word("note", ["x" * 5000]), "word 'note' needs at most"),
        (lambda: with_word("n" * 5000, 1), "needs at most 4096 bytes"),
        (
            lambda: with_record("about", ConfigRecord({str(i): i for i in range(40)})),
            "needs at most 32 words",
        ),
        (
            lambda: with_record("metrics", MetricRecord({str(i): 0.0 for i in range(65)})),
            "needs at most 64 metrics; got 65",
        ),
        (lambda: with_record("metrics", MetricRecord({"loss": 10**400})), "unreadable"),
    ],
)  # fmt: skip
def test_a_malformed_reply_is_refused_with_its_reason(content, reason):
    with np.errstate(all="ignore"):
        assert reason in refusal(content())


class Bomb:
    """Unpickled, it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_opened(tmp_path):
    flag = tmp_path / "unpickled"
    objects = np.array([[Bomb(flag)] * 3] * 2, dtype=object)
    pickled = npy(objects, allow_pickle=True)
    assert "got b\"{'descr': '|O'" in refusal(with_array("a", array(A, pickled)))
    assert "an npy header of" in refusal(with_array("a", array(A, pickle.dumps(Bomb(flag)))))
    assert not flag.exists()
    pickle.loads(pickle.dumps(Bomb(flag)))
    assert flag.exists()  # the bomb was live


@pytest.mark.parametrize("shape", [(10**15,), (10**8, 10**8), (2**63,), (-6,)])
def test_a_header_that_claims_the_world_allocates_nothing(shape):
    lies = array(A, header(shape))
    content = with_array("a", lies)
    tracemalloc.start()
    started = time.perf_counter()
    assert "a needs the npy header" in refusal(content)
    took_s, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert took_s < 1
    assert peak < 1_000_000


def test_a_header_is_compared_and_never_parsed():
    # numpy's reader gives a header to Python's parser, which has things of its own to say of it.
    deep = b"\x93NUMPY\x01\x00" + struct.pack("<H", 900) + b"[" * 899 + b"\n" + b"\0" * 24
    code = header((2, 3)).replace(b"(2, 3)", b"(f(),)")
    warns = header((2, 3)).replace(b"'shape'", b"'\\shap'")  # an invalid escape in Python
    python2 = header((2, 3)).replace(b"(2, 3)", b"(2,3L)")
    for data in (deep, code, warns, python2):
        assert "a needs the npy header" in refusal(with_array("a", array(A, data)))


@pytest.mark.parametrize(
    "content",
    [
        lambda: with_record("n" * 100_000, ConfigRecord()),
        lambda: with_array("n" * 100_000, array(A)),
        lambda: with_word("round", "9" * 4000),
        lambda: with_word("base_hash", "9" * 4000),
        lambda: with_array("a", Array("float32", (2, 3), "s" * 100_000, npy(A))),
    ],
)
def test_a_refusal_stays_short_whatever_was_sent(content):
    # Reasons go into metrics.jsonl each round: a long one would fill the server's disk.
    assert len(refusal(content())) <= 300


def test_metrics_are_cut_to_plain_numbers():
    metrics = MetricRecord({"x" * 500: 1.0, "list": [1.0, 2.0], "train_loss": 3})
    _, read_back = read(with_record("metrics", metrics))
    assert read_back == {"x" * 64: 1.0, "train_loss": 3.0}


def test_orders_share_the_anchors_bytes_and_nothing_that_can_be_changed():
    anchor = wire.to_arrays(torch.ones(LAYOUT.size), LAYOUT)
    agreement = wire.Agreement("base", "tokenizer", "anchor")
    words = {"recipe_json": "{}", "round_": 1, "agreement": agreement}
    one, other = (wire.train_order(anchor, **words)[wire.ANCHOR] for _ in range(2))
    assert one is not other
    assert one is not anchor
    for name, array in anchor.items():
        assert one[name] is other[name] is array

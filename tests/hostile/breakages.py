"""What can be wrong with a reply: each breakage is drawn by hypothesis and spoils one thing.

`broken_replies` applies one to three of them to a good reply. Some leave it good, such as another
order of names or a subnormal number: the oracle says which.
"""

import pickle
import struct

from good_replies import SHAPES, Values, forced, good_reply, npy_header, npy_text
from hypothesis import strategies as st

from fedtune.messages.message import ArrayRecord, ConfigRecord, Error, MetricRecord

NAMES = sorted(SHAPES)
WORDS = ("round", "base_hash", "tokenizer_hash", "anchor_hash")
ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\n\n\n", "\r\x1b[2J\x1b[1;31mowned", "\x1b]0;title\x07", "\u202egnp.e",
    "\u2066\u2069\u200b\ufeff", "\ud800", "\udfff\ud800", "[bold red]x[/]", "[link=file:///]x",
    "<script>alert(1)</script>", "</title><img src=x onerror=alert(1)>", "{{7*7}}${7*7}%s%n",
    "../../etc/passwd", "__class__", "Ä" * 50, "😀" * 70, "x" * 5000, "é\u0301" * 30, "NaN", "null",
    "\u2028\u2029\x85", "\x7f\x80\x9f", "\U000e0001\ue000", "it's \"quoted\"\\", "1", "True",
)  # fmt: skip
ODD_NUMBERS = (
    True, False, 0, 1, -1, 3, 3.0, 3.5, -0.0, 2**31, 2**53, 2**63, 2**64 + 3, -(2**63), 10**400,
    float("nan"), float("inf"), -float("inf"), 5e-324, 1.7976931348623157e308, 10**308, 2**1024,
)  # fmt: skip
ODD_OBJECTS = (None, {}, {"a": 1}, (), (1, 2), {1}, object(), 3j, range(3), bytearray(b"x"))

texts = st.sampled_from(ODD_TEXTS) | st.text(max_size=6)
numbers = st.sampled_from(ODD_NUMBERS)
words = st.one_of(
    numbers,
    texts,
    st.sampled_from([b"", b"\xff\x00", b"x" * 5000, bytes(range(256))]),
    st.sampled_from([[], [1, 2], [True], ["a", "b"], [b"x"], [1.0, float("nan")], [1] * 1000]),
    st.sampled_from([[None], [[1]], [1, "a"], ["x" * 5000], [10**400], *ODD_OBJECTS]),
)
names = st.sampled_from(NAMES)


def drop_record(draw, reply, _):
    reply.records.remove(draw(st.sampled_from(reply.records or ["none"])))


def add_record(draw, reply, _):
    kind = draw(st.sampled_from([ArrayRecord, ConfigRecord, MetricRecord]))
    reply.extra[draw(texts)] = kind()


def replace_record(draw, reply, _):
    odd = [forced(ConfigRecord, {}), forced(MetricRecord, {"a": 1}), forced(ArrayRecord, {})]
    name = draw(st.sampled_from(["delta", "about", "metrics", "Delta", "delta "]))
    reply.extra[name] = draw(st.sampled_from([*odd, None, {}, "x", 3]))


def reorder_records(draw, reply, _):
    reply.records = draw(st.permutations(reply.records))


def drop_array(draw, reply, _):
    reply.arrays.pop(draw(names), None)


def add_array(draw, reply, _):
    reply.arrays[draw(texts)] = reply.arrays.get(NAMES[0])


def rename_array(draw, reply, _):
    name = draw(names)
    near = [
        name.upper(),
        name + " ",
        name.replace("o", "\u043e"),
        name + "\0",
        name[:-1],
        "." + name,
    ]
    if name in reply.arrays:
        reply.arrays[draw(st.sampled_from(near))] = reply.arrays.pop(name)


def reorder_arrays(draw, reply, _):
    reply.arrays = {name: reply.arrays[name] for name in draw(st.permutations([*reply.arrays]))}


def swap_arrays(draw, reply, _):
    one, other = draw(names), draw(names)
    if {one, other} <= set(reply.arrays):
        arrays = reply.arrays
        arrays[one], arrays[other] = arrays[other], arrays[one]


def share_array(draw, reply, _):
    one, other = draw(names), draw(names)
    if one in reply.arrays:
        reply.arrays[other] = reply.arrays[one]


def odd_array(draw, reply, _):
    reply.arrays[draw(names)] = draw(st.sampled_from([None, b"", "x", 1, [1.0]]))


def spoil_array_word(draw, reply, _):
    values = values_of(draw, reply)
    key = draw(st.sampled_from(["dtype", "shape", "stype"]))
    odd = {
        "dtype": ["float32", "float64", "<f4", "f4", "single", "FLOAT32", "", "object", "x" * 9999],
        "shape": [(2, 32), [2, 32], (32, 2), (64,), (), (0,), (-2, -32), (2, 32, 1), (2.0, 32.0),
                  (True, 32), ("2", "32"), (2**63, 1), (2**40,), None, (2, 32) * 5000],
        "stype": ["numpy.ndarray", "torch.Tensor", "pickle", "", "\x1b[31m", "s" * 9999, None],
    }[key]  # fmt: skip
    if values is not None:
        values.words[key] = draw(st.sampled_from(odd))


def spoil_dtype(draw, reply, _):
    spellings = ["'<f4'", "'f4'", "'=f4'", "'float32'", "'f'", "'>f4'", "'!f4'", "'|f4'", "'<f8'",
                 "'<f2'", "'<i4'", "'<u4'", "'<c8'", "'|b1'", "'|O'", "'O'", "'<U1'", "'|S4'",
                 "'|V4'", "'<M8[ns]'", "[('x', '<f4')]", "('<f4', ())", "('<f4', (1,))", "float",
                 "'<f4 '", "b'<f4'", "('<f4', (2147483647, 2))", "None", "[]", "''"]  # fmt: skip
    values = values_of(draw, reply)
    if values is not None:
        text = npy_text(values.words["shape"], descr=draw(st.sampled_from(spellings)))
        values.header = npy_header(text)


def spoil_shape(draw, reply, _):
    shapes = ["(32, 2)", "(64,)", "64", "()", "(0,)", "(0, 0)", "(-2, -32)", "(2, -1)", "(2, 1, 1)",
              "(9223372036854775808,)", "(1099511627776,)", "(1099511627776, 0)", "(2.0, 32)",
              "(True, 32)", "(2, 32L)", "[2, 32]", "(02, 32)", "(0x2, 32)", "(2, 3_2)", "(1+1, 32)",
              "(2, 32,)", "( 2, 32)", "(2,32)", "(" * 400, "('2', 32)", "(2, " + "9" * 600 + ")",
              "(2, 32)", "__import__('os').system('true')", "(f(),)"]  # fmt: skip
    values = values_of(draw, reply)
    if values is not None:
        right = repr(values.words["shape"])
        text = npy_text((2, 32)).replace("(2, 32)", draw(st.sampled_from([*shapes, right])))
        values.header = npy_header(text)


def spoil_header(draw, reply, _):
    values = values_of(draw, reply)
    if values is None:
        return
    text = npy_text(values.words["shape"])
    spaces = " " * draw(st.sampled_from([0, 1, 63, 700, 900, 1100]))
    made = [
        npy_header(text, version=draw(st.sampled_from([(1, 0), (2, 0), (3, 0), (0, 0), (1, 1)]))),
        npy_header(text, pad=False),
        npy_header(draw(st.sampled_from([" " + text, "\n" + text, text + "\t", text + "\n"]))),
        npy_header(text + spaces + "\n", pad=False),
        npy_header(npy_text(values.words["shape"], fortran=True)),
        npy_header(text.replace("'shape'", "'evil': 1, 'shape'")),
        npy_header(text.replace("'", '"')),
        npy_header("{" + text[1:-1] + "**{}}"),
        npy_header(text.replace(", }", "}")),
        npy_header(text.replace("'descr'", "'\\d'")),
        npy_header(text + "# a comment"),
        npy_header(b"\xff\xfe" + text.encode()),
        npy_header("[" * 300),
        npy_header("()"),
        npy_header(""),
        values.header[: draw(st.integers(0, 128))],
        values.header.replace(b"NUMPY", b"NUMPZ"),
        values.header[:8] + draw(st.binary(min_size=2, max_size=2)) + values.header[10:],
        b"PK\x03\x04" + values.header,
        draw(st.binary(max_size=40)),
    ]
    values.header = draw(st.sampled_from(made))


def spoil_body(draw, reply, _):
    values = values_of(draw, reply)
    if values is None:
        return
    at = draw(st.integers(0, len(values.body)))
    pickled = pickle.dumps([1.0] * 8)
    values.body = draw(
        st.sampled_from(
            [b"", values.body[:at], values.body + b"\0", values.body + b"\0\0\x80\x3f",
             values.body[:-1], values.body + b"\0" * 1100, pickled, values.body[4:] + b"\0" * 4]
        )
    )  # fmt: skip


def spoil_number(draw, reply, _):
    values = values_of(draw, reply)
    bits = draw(st.sampled_from([
        0x7FC00000, 0xFFC00000, 0x7F800001, 0x7FFFFFFF, 0x7F800000, 0xFF800000,  # nan, inf
        0x00000001, 0x807FFFFF, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x3F800000,  # finite
    ]))  # fmt: skip
    if values is not None and len(values.body) >= 4:
        at = 4 * draw(st.integers(0, len(values.body) // 4 - 1))
        values.body = values.body[:at] + struct.pack("<I", bits) + values.body[at + 4 :]


def values_of(draw, reply):
    """One of the arrays, as an object that no other name shares."""
    name = draw(names)
    found = reply.arrays.get(name)
    if not isinstance(found, Values) or not isinstance(found.words["shape"], tuple):
        return None
    reply.arrays[name] = Values(dict(found.words), found.header, found.body)
    return reply.arrays[name]


def spoil_word(draw, reply, _):
    key = draw(st.sampled_from(WORDS))
    reply.words[key] = draw(words)


def near_word(draw, reply, order):
    """Nearly what was asked for: the next round, another client's hash, one more character."""
    key = draw(st.sampled_from(WORDS))
    right = order[key]
    if key == "round":
        near = [right + 1, right - 1, float(right), str(right), bool(right), right + 2**64, [right]]
    else:
        other = order["base_hash"] if key != "base_hash" else order["anchor_hash"]
        near = [right.upper(), right + " ", right + "\0", right[:12], right[:-1], other,
                right.encode(), [right], right[::-1]]  # fmt: skip
    reply.words[key] = draw(st.sampled_from(near))


def drop_word(draw, reply, _):
    reply.words.pop(draw(st.sampled_from(WORDS)), None)


def add_word(draw, reply, _):
    key = draw(texts | st.sampled_from(["note", "f", "weight", 3, None, b"note"]))
    reply.words[key] = draw(words)


def add_many_words(draw, reply, _):
    count = draw(st.sampled_from([27, 28, 29, 200, 3000]))
    reply.words |= {f"word {i}": i for i in range(count)}


def spoil_metric(draw, reply, _):
    lists = [[], [1.0], [float("nan")] * 3, [1] * 5000, [10**400], ["a"], [[1.0]]]
    value = draw(numbers | texts | st.sampled_from([*lists, *ODD_OBJECTS]))
    reply.metrics[draw(texts | st.sampled_from(["train_loss", "loss", 7, None]))] = value


def add_many_metrics(draw, reply, _):
    count = draw(st.sampled_from([61, 62, 63, 64, 5000]))
    reply.metrics |= {f"metric {i}": float(i) for i in range(count)}


def too_much(draw, reply, _):
    where = draw(st.sampled_from(["word", "array", "record name", "stype", "metric"]))
    much = "x" * 300_000
    if where == "word":
        reply.words["note"] = much
    elif where == "array":
        reply.arrays[much] = reply.arrays.get(NAMES[0])
    elif where == "record name":
        reply.extra[much] = ConfigRecord()
    elif where == "metric":
        reply.metrics[much] = 1.0
    elif (values := values_of(draw, reply)) is not None:
        values.words["stype"] = much


def fail(draw, reply, _):
    reasons = [None, "", "\n", "\x1b[2J", "Traceback\n  x\nValueError: [red]no[/] rows\n" * 3,
               "x" * 2**20, "ray.exceptions.ActorDiedError", "\ud800", "<b>", "a\rb"]  # fmt: skip
    code = draw(st.sampled_from([0, 1, 2, 3, 5, 8, -1, 2**31]))
    reply.error = Error(code, draw(st.sampled_from(reasons) | texts))


def say_nothing(draw, reply, _):
    reply.envelope = "neither"


def twice(draw, reply, _):
    reply.envelope = draw(st.sampled_from(["twice", "a stranger first"]))


BREAKAGES = (
    drop_record, add_record, replace_record, reorder_records, drop_array, add_array, rename_array,
    reorder_arrays, swap_arrays, share_array, odd_array, spoil_array_word, spoil_dtype, spoil_shape,
    spoil_header, spoil_body, spoil_number, spoil_number, spoil_word, near_word, drop_word,
    add_word, add_many_words, spoil_metric, add_many_metrics, too_much, fail, say_nothing, twice,
)  # fmt: skip


@st.composite
def broken_replies(draw, order, numbers):
    """A good reply to an order, with one to three things broken."""
    reply = good_reply(order, numbers)
    for breakage in draw(st.lists(st.sampled_from(BREAKAGES), min_size=1, max_size=3)):
        breakage(draw, reply, order)
        reply.broken.append(breakage.__name__)
    return reply

"""What a good reply is, said once more: slowly, in plain Python, and without a line of the screen.

It knows the bounds as numbers of its own: that the code has the same ones is part of the test.
"""

import math
import re
import struct

from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, MetricRecord

HEADER = re.compile(rb"\{'descr': '<f4', 'fortran_order': False, 'shape': \((\d+), (\d+)\), \} *\n")
SCALARS = (bool, int, float, str, bytes)


def good_row(reply, *, shapes, round_, hashes):
    """The numbers of a good reply, in the order of the names; None if it is not a good one.

    Args:
        reply: A Flower message.
        shapes: Of two dimensions, by name.
        round_: That was asked for.
        hashes: The three that a reply must repeat.
    """
    if reply.error is not None or reply.content is None:
        return None
    content = reply.content
    kinds = {"delta": ArrayRecord, "about": ConfigRecord, "metrics": MetricRecord}
    if {name: type(record) for name, record in content.items()} != kinds:
        return None
    if not (good_words(content["about"], round_, hashes) and good_metrics(content["metrics"])):
        return None
    if set(content["delta"]) != set(shapes):
        return None
    row = []
    for name in sorted(shapes):
        numbers = good_numbers(content["delta"][name], shapes[name])
        if numbers is None:
            return None
        row += numbers
    most = 4 * len(row) + 1024 * len(shapes) + 262_144
    return row if weight(content) <= most else None


def weight(content):
    """Bytes of the names and values in a reply."""
    total = 0
    for name, record in content.items():
        total += len(name)
        for key, value in record.items():
            total += len(key)
            if isinstance(record, ArrayRecord):
                total += len(value.data) + len(value.dtype) + len(value.stype)
                total += 8 * len(value.shape)
            else:
                total += weight_of(value)
    return total


def weight_of(value):
    if isinstance(value, list):
        return sum(8 + weight_of(item) for item in value)
    return len(value) if isinstance(value, str | bytes) else 8


def good_words(about, round_, hashes):
    if len(about) > 32:
        return False
    for key, value in about.items():
        items = value if type(value) is list else [value]
        if type(key) is not str or not all(type(item) in SCALARS for item in items):
            return False
        if len(key) + weight_of(value) > 4096:
            return False
    if type(about.get("round")) is not int or about["round"] != round_:
        return False
    return all(type(about.get(key)) is str and about[key] == hashes[key] for key in hashes)


def good_metrics(metrics):
    if len(metrics) > 64:
        return False
    for key, value in metrics.items():
        items = value if type(value) is list else [value]
        if type(key) is not str or not all(type(item) in (int, float) for item in items):
            return False
        if type(value) is int and abs(value) >= 2**1024 - 2**970:  # float() has no room for it
            return False
    return True


def good_numbers(array, shape):
    """The float32 numbers of one array as Python has them."""
    if type(array) is not Array:
        return None
    words = (array.dtype, array.shape, array.stype)
    if words != ("float32", shape, "numpy.ndarray") or type(array.shape) is not tuple:
        return None
    if any(type(axis) is not int for axis in array.shape) or type(array.data) is not bytes:
        return None
    magic, rest = array.data[:8], array.data[8:]
    if magic != b"\x93NUMPY\x01\x00" or len(rest) < 2:
        return None
    length = rest[0] + 256 * rest[1]
    found = HEADER.fullmatch(rest[2 : 2 + length])
    if found is None or (int(found[1]), int(found[2])) != shape:
        return None
    if [found[1], found[2]] != [b"%d" % axis for axis in shape]:  # "02" is 2 to int()
        return None
    if 10 + length > 1024:
        return None
    body, count = rest[2 + length :], shape[0] * shape[1]
    if len(body) != 4 * count:
        return None
    numbers = [struct.unpack_from("<f", body, 4 * i)[0] for i in range(count)]
    return numbers if all(math.isfinite(number) for number in numbers) else None

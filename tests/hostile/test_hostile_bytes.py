"""Damage to the bytes of a good reply as they lie on the SuperLink, piece by piece.

Each damaged piece is entered again under its own hash, and so are those above it: else the
SuperLink itself takes none of it. The oracle reads what Flower's own deserializer, and those of
safetensors and JSON, make of them. Every second reply is packed, as fedtune's nodes send them.
"""

import base64
import json
import struct

import numpy as np
import pytest
from flwr import app as flower
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from good_replies import BASE, SHAPES, TOKENIZER, as_content, good_reply
from hostile_road import HOSTILE, ROUND, Road, hostile_recipe, numbers_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import good_row
from safetensors.numpy import load
from superlink_in_memory import SuperLink, head_of, id_of, piece

from fedtune.messages.message import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from fedtune.messages.message import Message as OurMessage
from fedtune.messages.wire import hash_row
from fedtune.round.roster import Roster
from fedtune.transport.flower import grid as grids
from fedtune.transport.flower.convert import packed, to_flower

NAME = "fedtune.packed"
KINDS = {"ArrayChunk": 4, "Array": 4, "ArrayRecord": 1, "ConfigRecord": 1, "MetricRecord": 1,
         "RecordDict": 1, "Message": 1}  # fmt: skip
EXCHANGES = (
    (b'"float32"', b'"float64"'), (b"[0]}", b"[0, 0]}"), (b"[0]}", b"[]}"), (b"[0]}", b"[-1]}"),
    (b"[0]}", b"[1]}"), (b"[2, 32]", b"[2, 1e400]"), (b"[2, 32]", b"[true, 32]"),
    (b"[2, 32]", b'"ab"'), (b"[2, 32]", b"[" * 300), (b"[2, 32]", b"[2, 3" + b"2" * 5000 + b"]"),
    (b"numpy.ndarray", b"torch.Tensor"), (b"lora_A", b"lora_B"), (b"{", b'{"delta": null, '),
    (b'"about"', b'"delta"'), (b'"delta"', b'"Delta"'), (b"q_proj", b"v_proj"), (b"{", b'{"": 1,'),
    (b"base_hash", b"base_hasj"), (b"round", b"roun\xff"), (b"\x10\x02", b"\x10\x04"),
    (b"NUMPY", b"NUMPZ"), (b"<f4", b">f4"), (b"False", b"True "), (b"(2, 32)", b"(32, 2)"),
    (b"train_loss", b"\x1b[2J\xe2\x80\xae"), (b"}", b'}\n"more"'), (b'"stype"', b'"dtype"'),
    (b'"F32"', b'"F64"'), (b'"F32"', b'"I32"'), (b"[2,32]", b"[32,2]"), (b"[0,256]", b"[0,260]"),
    (b"[2,32]", b"[4294967296,4294967296]"), (b'"fedtune.packed"', b'"numpy.ndarray"'),
    (b'["round",1]', b'["round",1.0]'), (b'["round",1]', b'["round",1],["round",1]'),
    (b'["round",1]', b'["round",true]'), (b'["round",1]', b'["round",{"bytes":"AQ=="}]'),
    (b'"words"', b'"metrics"'), (b'"metrics",[[', b'"metrics",[[[],[]],['), (b"0.25", b"NaN"),
    (b"0.25", b'{"float":"000000000000f07f"}'), (b"0.25", b"1e999"), (b"0.25", b"[" * 2000),
    (b"0.25", b"[0.25,1]"), (b"0.25", b"9" * 5000), (b"0.25", b"{}"), (b"0.25", b"null"),
)  # fmt: skip


HOW = ("nothing", "flip", "cut", "grow", "replace", "exchange", "exchange")


@st.composite
def damages(draw):
    """Which kind of piece is damaged, which one of that kind, and a function on its body."""
    how = draw(st.sampled_from(HOW))
    at, some = draw(st.integers(0, 400)), draw(st.binary(min_size=1, max_size=6))
    old, new = draw(st.sampled_from(EXCHANGES))

    def change(body):
        here = at % (len(body) or 1)
        return {
            "flip": body[:here] + some + body[here + len(some) :],
            "cut": body[:here],
            "grow": body[:here] + some + body[here:],
            "replace": some,
            "exchange": body.replace(old, new, 1),
            "nothing": body,
        }[how]

    return draw(st.sampled_from([*KINDS])), draw(st.integers(0, 3)), change


def pieces_of(content, metadata, damaged):
    """The pieces of a reply by id, and their tree; some are damaged on the way up."""
    pieces, counts = {}, dict.fromkeys(KINDS, 0)

    def enter(kind, children, body):
        for which, number, change in damaged:
            if which == kind and number % KINDS[kind] == counts[kind]:
                body = change(body)
        counts[kind] += 1
        children = list({child.object_id: child for child in children}.values())
        made = piece(kind, [pieces[child.object_id] for child in children], body)
        pieces[id_of(made)] = made
        return ObjectTree(object_id=id_of(made), children=children)

    def enter_record(record):
        if not isinstance(record, flower.ArrayRecord):
            return enter(type(record).__name__, [], body_of(record))
        arrays = {}
        for name, array in record.items():
            chunk = enter("ArrayChunk", [], array.data)
            arrays[name] = enter("Array", [chunk], body_of(array))
        return enter("ArrayRecord", arrays.values(), table(arrays))

    records = {name: enter_record(record) for name, record in content.items()}
    top = enter("RecordDict", records.values(), table(records))
    return pieces, enter("Message", [top], head_of(metadata))


def body_of(obj):
    return obj.deflate().split(b"\0", 1)[1]


def table(trees):
    return json.dumps({name: tree.object_id for name, tree in trees.items()}).encode()


class AnsweringTransport(grids.NetworkTransport):
    """fedtune's transport, whose nodes answer the moment they are asked."""

    def __init__(self, link, answers):
        super().__init__(link.http)
        self.link, self.answers = link, answers

    def push(self, message, *, most):
        order_id, node = super().push(message, most=most), message.node_id
        metadata = self.link.metadata(self.link.order_of(node), node)
        pieces, tree = self.answers[self.link.nodes.index(node)](metadata)
        self.link.send(node, metadata, pieces, tree)
        return order_id


class WireCampaign:
    """Rounds in which every node's reply is damaged, and what the oracle says of each."""

    def __init__(self, folder):
        federation = {"engine": "superlink", "round_timeout_s": 60, "max_retries": 0}
        federation["num_clients"] = HOSTILE + 1
        self.road = Road(folder, hostile_recipe(federation=federation))
        self.link = SuperLink(HOSTILE + 1)
        server = self.road.server
        server.roster = Roster(dict(enumerate(self.link.nodes)), {})
        anchor_hash = hash_row(server.outer.anchor, server.layout)
        self.hashes = {"base_hash": BASE, "tokenizer_hash": TOKENIZER, "anchor_hash": anchor_hash}
        self.words = {"round": ROUND, **self.hashes}
        self.good = self.bad = self.unread = 0

    def play(self, chosen):
        sent = {}

        def answer(client, damaged):
            def make(metadata):
                content = as_content(good_reply(self.words, numbers_of(client)))
                content = packed(content) if client % 2 else to_flower(content)
                sent[client] = (pieces_of(content, metadata, damaged), metadata)
                return sent[client][0]

            return make

        # The last one's values are cut off, so that nothing is ever combined.
        chosen = [*chosen, [("ArrayChunk", 0, lambda body: body[:-4])]]
        transport = AnsweringTransport(self.link, [answer(*pair) for pair in enumerate(chosen)])
        server = self.road.server
        assert not server.run_round(transport, ROUND)
        for client in range(len(chosen)):
            self.judge(client, *sent[client], server.record.refused.get(client))

    def judge(self, client, pieces, metadata, reason):
        message = self.read(*pieces, metadata)
        row = None
        if message is not None:
            row = good_row(message, shapes=SHAPES, round_=ROUND, hashes=self.hashes)
        if row is None:
            assert client not in self.road.accepted
            assert 0 < len(reason) <= 300
            assert reason.isprintable()
            assert reason != "it sent no reply"
            self.bad += 1
        else:
            assert reason is None, f"a good reply was refused: {reason}"
            found = self.road.row(client).numpy().tobytes()
            assert found == np.array(row, "<f4").tobytes()
            self.good += 1

    def read(self, pieces, tree, metadata):
        """The message as Flower reads it, under the envelope that the SuperLink has checked."""
        try:
            found = inflate_object_from_contents(tree.object_id, dict(pieces))
            return OurMessage(opened(found.content)) if found.has_content() else None
        except Exception:  # whatever is raised here, no message comes of it
            self.unread += 1
            return None


def opened(content):
    """A packed message's records; of anything else, the records as they are."""
    record = content.get(NAME)
    if len(content) != 1 or type(record) is not flower.ArrayRecord or [*record] != [NAME]:
        return ours(content)
    if record[NAME].stype != NAME:
        return ours(content)
    blob, frame = record[NAME].data, 65536
    body = b"".join(blob[at + 32 : at + frame] for at in range(0, len(blob), frame))
    count, body = int.from_bytes(cut(body, 8), "little"), body[8:]
    found = words_in(cut(body, count))
    body = body[count:]
    while body:
        lengths, body = cut(body, 10), body[10:]
        name_bytes = int.from_bytes(lengths[:2], "little")
        count = int.from_bytes(lengths[2:], "little")
        name, body = cut(body, name_bytes).decode(), body[name_bytes:]
        assert name not in found
        arrays, body = load(cut(body, count)), body[count:]
        found[name] = ArrayRecord({key: Array.of(values) for key, values in arrays.items()})
    return RecordDict(found)


def ours(content):
    """Flower's records under the names of fedtune's own."""
    kinds = {"ArrayRecord": ArrayRecord, "ConfigRecord": ConfigRecord, "MetricRecord": MetricRecord}
    found = RecordDict()
    for name, record in content.items():
        values = dict(record)
        if isinstance(record, flower.ArrayRecord):
            values = {
                key: Array(it.dtype, it.shape, it.stype, it.data) for key, it in record.items()
            }
        found[name] = kinds[type(record).__name__](values)
    return found


def words_in(text):
    """The records without arrays of a packed message: JSON, each name once."""
    found, listed = {}, json.loads(text.decode(), parse_constant=no_json)
    assert type(listed) is list
    for name, kind, pairs in listed:
        assert type(name) is str
        assert name not in found
        assert type(pairs) is list
        found[name] = {"words": ConfigRecord, "metrics": MetricRecord}[kind]()
        for key, value in pairs:
            assert key not in found[name]
            found[name][key] = word_in(value)
    return found


def no_json(constant):
    raise ValueError(constant)


def word_in(value):
    if type(value) is dict:
        ((kind, code),) = value.items()
        if kind == "bytes":
            return base64.b64decode(code, validate=True)
        assert kind == "float"
        return struct.unpack("<d", bytes.fromhex(code))[0]
    if type(value) is list:
        found = [word_in(item) for item in value]
        assert len({type(item) for item in found}) <= 1
        assert list not in {type(item) for item in found}
        return found
    assert type(value) is not int or -(2**63) <= value < 2**64
    return value


def cut(body, count):
    assert len(body) >= count
    return body[:count]


def fuzz(folder, rounds):
    campaign = WireCampaign(folder)
    some = st.lists(damages(), min_size=1, max_size=3)

    @settings(
        max_examples=rounds,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(some, min_size=HOSTILE, max_size=HOSTILE))
    def check(chosen):
        campaign.play(chosen)

    check()
    print(f"{campaign.bad} bad, of them {campaign.unread} unreadable, {campaign.good} good")
    assert campaign.good > rounds
    assert campaign.unread > rounds
    assert campaign.bad > 5 * rounds


def test_300_replies_of_damaged_bytes(tmp_path, at_once):
    fuzz(tmp_path, 20)


@pytest.mark.slow
def test_10000_replies_of_damaged_bytes(tmp_path, at_once):
    fuzz(tmp_path, 600)

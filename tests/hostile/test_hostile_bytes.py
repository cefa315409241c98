"""Damage to the bytes of a good reply as they lie on the SuperLink, piece by piece.

Each damaged piece is entered again under its own hash, and so are those above it: else the
SuperLink itself takes none of it. The oracle reads what Flower's own deserializer, and that of
safetensors, make of them. Every second reply is packed, as fedtune's nodes send them.
"""

import json

import numpy as np
import pytest
from flwr.app.message import make_message
from flwr.common.serde import recorddict_from_proto
from flwr.proto.message_pb2 import ObjectTree
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from good_replies import BASE, SHAPES, TOKENIZER, as_content, good_reply
from hostile_road import HOSTILE, ROUND, Road, hostile_recipe, numbers_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import good_row
from safetensors.numpy import load
from superlink_in_memory import SuperLink, head_of, id_of, piece

from fedtune.messages.message import Array, ArrayRecord, RecordDict
from fedtune.messages.packing import pack
from fedtune.messages.wire import hash_row
from fedtune.round.roster import Roster
from fedtune.transport.flower import grid as grids

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
        if not isinstance(record, ArrayRecord):
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


class AnsweringGrid(grids.NetworkTransport):
    """fedtune's grid, whose nodes answer the moment they are asked."""

    def __init__(self, link, answers):
        super().__init__(link.http)
        self.link, self.answers = link, answers

    def push_messages(self, messages):
        ids = super().push_messages(messages)
        for message in messages:
            node = message.node_id
            metadata = self.link.metadata(self.link.order_of(node), node)
            pieces, tree = self.answers[self.link.nodes.index(node)](metadata)
            self.link.send(node, metadata, pieces, tree)
        return ids


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
                content = pack(content) if client % 2 else content
                sent[client] = (pieces_of(content, metadata, damaged), metadata)
                return sent[client][0]

            return make

        # The last one's values are cut off, so that nothing is ever combined.
        chosen = [*chosen, [("ArrayChunk", 0, lambda body: body[:-4])]]
        grid = AnsweringGrid(self.link, [answer(*pair) for pair in enumerate(chosen)])
        server = self.road.server
        assert not server.run_round(grid, ROUND)
        for client in range(len(chosen)):
            self.judge(client, *sent[client], server.record["refused"].get(str(client)))

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
            return make_message(metadata, opened(found.content)) if found.has_content() else None
        except Exception:  # whatever is raised here, no message comes of it
            self.unread += 1
            return None


def opened(content):
    """A packed message's records; of anything else, the records as they are."""
    record = content.get(NAME)
    if len(content) != 1 or type(record) is not ArrayRecord or [*record] != [NAME]:
        return content
    if record[NAME].stype != NAME:
        return content
    blob, frame = record[NAME].data, 65536
    body = b"".join(blob[at + 32 : at + frame] for at in range(0, len(blob), frame))
    count, body = int.from_bytes(cut(body, 8), "little"), body[8:]
    found = dict(recorddict_from_proto(RecordDictProto.FromString(cut(body, count))))
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

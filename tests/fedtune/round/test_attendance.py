"""Nodes of a real network leave, come back, and come late."""

import threading
from itertools import count

import pytest

from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.messages.message import ConfigRecord, RecordDict
from fedtune.recipe import parse_recipe
from fedtune.records.events import RunStoppedError
from fedtune.round.attendance import NOT_CONNECTED, Attendance
from fedtune.round.roster import Roster, identify_clients

AGREED = wire.Agreement("base", "tokenizer", "")
NODES = {0: 100, 1: 101, 2: 102}


class FakeNetwork:
    """A SuperLink whose nodes come and go as a test says, and answer at once."""

    def __init__(self, keys):
        self.keys, self.online, self.says = keys, set(NODES.values()), {}
        self.sent, self._ids = {}, count()

    def node_ids(self):
        return sorted(self.online)

    def public_keys(self):
        return {key: NODES[client] for client, key in enumerate(self.keys)}

    def push(self, message, *, most):
        message.id = f"m{next(self._ids)}"
        self.sent[message.id] = message
        return message.id

    def pull(self, ids):
        for message_id in ids:
            message = self.sent.get(message_id)
            if message and message.node_id in self.online:
                del self.sent[message_id]
                return [self._answer(message)]
        return []

    def _answer(self, message):
        node = message.node_id
        said = self.says.get(node, {"base_hash": "base", "tokenizer_hash": "tokenizer"})
        if isinstance(said, str):
            return message.failed(said)
        words = ConfigRecord({"anchor_hash": "", **said})
        return message.reply(RecordDict({wire.ABOUT: words}))


@pytest.fixture
def recipe(tmp_path):
    DeploymentFolder.create(tmp_path / "fed", 3, "127.0.0.1", 9443)
    federation = {
        "engine": "superlink",
        "deployment": str(tmp_path / "fed"),
        "num_clients": 3,
        "num_rounds": 2,
        "local_steps": 1,
        "round_timeout_s": 0.3,
    }
    return parse_recipe({"federation": federation, "aggregator": {"name": "median", "f": 0}})


@pytest.fixture
def transport(recipe):
    return FakeNetwork(DeploymentFolder.open(recipe.federation.deployment).public_keys)


def roll(transport, recipe):
    return identify_clients(
        transport,
        recipe,
        recipe_json=recipe.model_dump_json(),
        agreement=AGREED,
        stop=threading.Event(),
        observer=lambda event: None,
    )


def attend(transport, recipe, roster):
    return Attendance(transport, recipe, recipe.model_dump_json(), AGREED, roster)


def test_who_is_away_is_not_asked_and_comes_back_as_the_same_client(transport, recipe):
    attendance = attend(transport, recipe, roll(transport, recipe))
    assert attendance.look() == Roster(NODES, {})
    transport.online.remove(101)
    assert attendance.look() == Roster({0: 100, 2: 102}, {1: NOT_CONNECTED})
    transport.online.add(101)
    assert attendance.look() == Roster(NODES, {})


def test_a_run_begins_without_the_late_and_takes_them_in_when_they_come(transport, recipe):
    transport.online.remove(102)
    called = roll(transport, recipe)
    assert called.nodes == {0: 100, 1: 101}
    attendance = attend(transport, recipe, called)
    assert attendance.look().absent == {2: NOT_CONNECTED}
    transport.online.add(102)
    hashes = {"base_hash": "base", "tokenizer_hash": "tokenizer"}
    transport.says[102] = {**hashes, "rows": 48, "schema_hash": "a" * 64}
    assert 2 in attendance.look().absent  # asked now, and not waited for
    found = attendance.look()
    assert found == Roster(NODES, {})
    nothing = {"rows": None, "schema_hash": None}
    assert found.said == {0: nothing, 1: nothing, 2: {"rows": 48, "schema_hash": "a" * 64}}


def test_a_run_does_not_begin_with_fewer_than_its_rule_needs(transport, recipe):
    strict = recipe.model_copy(update={"aggregator": recipe.aggregator.model_copy(update={"f": 1})})
    transport.online -= {101, 102}
    with pytest.raises(RunStoppedError, match=r"needs 3 nodes; 1 came in 0 s"):
        roll(transport, strict)


def test_who_disagrees_is_asked_again_until_it_agrees(transport, recipe):
    transport.says[102] = {"base_hash": "another", "tokenizer_hash": "tokenizer"}
    transport.says[101] = "NotAllowedError: this node's owner does not allow it"
    attendance = attend(transport, recipe, roll(transport, recipe))
    for _ in range(2):
        absent = attendance.look().absent
        assert "base_hash differs" in absent[2]
        assert "does not allow it" in absent[1]
    transport.says.clear()
    attendance.look()
    assert attendance.look() == Roster(NODES, {})


def test_who_does_not_answer_is_asked_once_while_the_question_is_open(transport, recipe):
    transport.online.remove(102)
    attendance = attend(transport, recipe, roll(transport, recipe))
    transport.online.add(102)
    transport.pull = lambda ids: []
    for _ in range(3):
        attendance.look()
    assert len(transport.sent) == 1

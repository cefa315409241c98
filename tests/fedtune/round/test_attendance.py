"""Nodes of a real network leave, come back, and come late."""

import threading
from itertools import count

import pytest
from flwr.app import ConfigRecord, Error, RecordDict
from flwr.app.message import make_message
from flwr.supercore.task_identity import TaskIdentity

from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.recipe import parse_recipe
from fedtune.records.events import RunStoppedError
from fedtune.round.attendance import NOT_CONNECTED, Attendance
from fedtune.round.roster import Roster, call_the_roll
from fedtune.transport.flower.grid import CarefulGrid

AGREED = wire.Agreement("base", "tokenizer", "")
NODES = {0: 100, 1: 101, 2: 102}


class FakeGrid(CarefulGrid):
    """A SuperLink whose nodes come and go as a test says, and answer at once."""

    def __init__(self, keys):
        self.keys, self.online, self.says = keys, set(NODES.values()), {}
        self.sent, self._ids = {}, count()

    def get_node_ids(self):
        return sorted(self.online)

    def public_keys(self):
        return {key: NODES[client] for client, key in enumerate(self.keys)}

    def bound(self, message_id, max_bytes):
        pass

    def push_messages(self, messages):
        made = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = f"m{next(self._ids)}"
            self.sent[message.metadata.message_id] = message
            made.append(message.metadata.message_id)
        return made

    def pull_messages(self, message_ids):
        for message_id in message_ids:
            message = self.sent.get(message_id)
            if message and message.metadata.dst_node_id in self.online:
                del self.sent[message_id]
                return [self._answer(message)]
        return []

    def _answer(self, message):
        node = message.metadata.dst_node_id
        said = self.says.get(node, {"base_hash": "base", "tokenizer_hash": "tokenizer"})
        metadata = message.metadata
        metadata.__dict__["_reply_to_message_id"] = metadata.message_id
        if isinstance(said, str):
            return make_message(metadata=metadata, error=Error(2, said))
        words = ConfigRecord({"anchor_hash": "", **said})
        return make_message(metadata=metadata, content=RecordDict({wire.ABOUT: words}))


@pytest.fixture
def recipe(tmp_path):
    DeploymentFolder.create(tmp_path / "fed", 3, "127.0.0.1", 9443)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 5, 1, 1
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
def grid(recipe):
    return FakeGrid(DeploymentFolder.open(recipe.federation.deployment).public_keys)


def roll(grid, recipe):
    return call_the_roll(
        grid,
        recipe,
        recipe_json=recipe.model_dump_json(),
        agreement=AGREED,
        stop=threading.Event(),
        observer=lambda event: None,
    )


def attend(grid, recipe, roster):
    return Attendance(grid, recipe, recipe.model_dump_json(), AGREED, roster)


def test_who_is_away_is_not_asked_and_comes_back_as_the_same_client(grid, recipe):
    attendance = attend(grid, recipe, roll(grid, recipe))
    assert attendance.look() == Roster(NODES, {})
    grid.online.remove(101)
    assert attendance.look() == Roster({0: 100, 2: 102}, {1: NOT_CONNECTED})
    grid.online.add(101)
    assert attendance.look() == Roster(NODES, {})


def test_a_run_begins_without_the_late_and_takes_them_in_when_they_come(grid, recipe):
    grid.online.remove(102)
    called = roll(grid, recipe)
    assert called.nodes == {0: 100, 1: 101}
    attendance = attend(grid, recipe, called)
    assert attendance.look().absent == {2: NOT_CONNECTED}
    grid.online.add(102)
    hashes = {"base_hash": "base", "tokenizer_hash": "tokenizer"}
    grid.says[102] = {**hashes, "rows": 48, "schema_hash": "a" * 64}
    assert 2 in attendance.look().absent  # asked now, and not waited for
    found = attendance.look()
    assert found == Roster(NODES, {})
    nothing = {"rows": None, "schema_hash": None}
    assert found.said == {0: nothing, 1: nothing, 2: {"rows": 48, "schema_hash": "a" * 64}}


def test_a_run_does_not_begin_with_fewer_than_its_rule_needs(grid, recipe):
    strict = recipe.model_copy(update={"aggregator": recipe.aggregator.model_copy(update={"f": 1})})
    grid.online -= {101, 102}
    with pytest.raises(RunStoppedError, match=r"needs 3 nodes; 1 came in 0 s"):
        roll(grid, strict)


def test_who_disagrees_is_asked_again_until_it_agrees(grid, recipe):
    grid.says[102] = {"base_hash": "another", "tokenizer_hash": "tokenizer"}
    grid.says[101] = "NotAllowedError: this node's owner does not allow it"
    attendance = attend(grid, recipe, roll(grid, recipe))
    for _ in range(2):
        absent = attendance.look().absent
        assert "base_hash differs" in absent[2]
        assert "does not allow it" in absent[1]
    grid.says.clear()
    attendance.look()
    assert attendance.look() == Roster(NODES, {})


def test_who_does_not_answer_is_asked_once_while_the_question_is_open(grid, recipe):
    grid.online.remove(102)
    attendance = attend(grid, recipe, roll(grid, recipe))
    grid.online.add(102)
    grid.pull_messages = lambda message_ids: []
    for _ in range(3):
        attendance.look()
    assert len(grid.sent) == 1

"""The grid of a real network: one reply at a time, and what a reply raises is its sender's."""

from types import SimpleNamespace

import pytest

from fedtune.federation.link import grid as grids
from fedtune.federation.link.grid import CarefulGrid


class Link:
    """Stands for Flower's HTTP grid: replies of so many pieces, pulled through its client."""

    def __init__(self, replies):
        self.replies = replies
        self.pulled = []
        self._runtime_client = SimpleNamespace(PullObject=self.pull_object)

    def pull_object(self, size):
        self.pulled.append(size)
        return SimpleNamespace(object_content=b"x" * size)

    def pull_messages(self, ids):
        (one,) = ids
        said = self.replies.pop(one, None)
        if said is None:
            return []
        if isinstance(said, Exception):
            raise said
        for size in said:
            self._runtime_client.PullObject(size)
        return [f"reply to {one}"]


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(grids, "SWEEP_S", 0.0)


def test_replies_come_one_at_a_time():
    link = Link({"a": [1], "c": [1]})
    careful = CarefulGrid(link)
    ids = ["a", "b", "c"]
    assert careful.pull_messages(ids) == ["reply to a"]
    assert careful.pull_messages(ids) == ["reply to c"]
    assert careful.pull_messages(ids) == []


def test_a_reply_is_no_larger_than_its_bound_before_it_is_whole():
    link = Link({"a": [60_000] * 100, "b": [60_000]})
    careful = CarefulGrid(link)
    careful.bound("a", 100_000)
    careful.bound("b", 100_000)
    (refused,) = careful.pull_messages(["a", "b"])
    assert refused.has_error()
    assert refused.metadata.reply_to_message_id == "a"
    assert "weighs more" in refused.error.reason
    assert sum(link.pulled) < 100_000 + 2**16 + 60_000
    assert careful.pull_messages(["b"]) == ["reply to b"]


@pytest.mark.parametrize("raised", [ValueError("a lie"), KeyError("x"), RecursionError()])
def test_what_a_reply_raises_is_that_replys(raised):
    careful = CarefulGrid(Link({"a": raised, "b": [1]}))
    (refused,) = careful.pull_messages(["a", "b"])
    assert refused.metadata.reply_to_message_id == "a"
    assert type(raised).__name__ in refused.error.reason
    assert careful.pull_messages(["b"]) == ["reply to b"]


def test_a_line_that_is_down_is_no_ones_lie():
    with pytest.raises(ConnectionError):
        CarefulGrid(Link({"a": ConnectionError()})).pull_messages(["a"])

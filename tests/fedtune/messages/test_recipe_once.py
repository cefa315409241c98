"""A recipe travels to each node once; a node that has lost it gets it again."""

import pytest
import torch
from toy_federation import honest, toy_app, toy_recipe, toy_server

from fedtune.messages.message import ConfigRecord, RecordDict
from fedtune.messages.recipe_once import (
    MAX_KEPT,
    RECIPE,
    RECIPE_HASH,
    KeptRecipes,
    hash_of,
    restore,
)
from fedtune.messages.wire import ORDER
from fedtune.transport.local import LocalTransport


class Noting(LocalTransport):
    """Notes which orders carry a recipe, and which its hash."""

    def __init__(self, client, num_clients):
        super().__init__(client, num_clients)
        self.carried = []

    def push(self, message, *, most):
        words = message.content.config_records[ORDER]
        self.carried.append((message.kind, RECIPE in words, RECIPE_HASH in words))
        return super().push(message, most=most)


def test_the_introduction_alone_carries_the_recipe():
    seen = []

    def content_of(message, client):
        seen.append(message.content.config_records[ORDER][RECIPE])
        return honest(message, client)

    recipe = toy_recipe(3)
    transport = Noting(toy_app(content_of), 3)
    server = toy_server(recipe, transport)
    assert all(server.run_round(transport, round_) for round_ in (1, 2))
    assert transport.carried == [("query", True, False)] * 3 + [("train", False, True)] * 6
    assert seen == [recipe.model_dump_json()] * 6


def test_a_node_that_has_lost_it_fails_one_try_and_gets_it_in_the_next():
    recipe = toy_recipe(3, aggregator={"name": "median", "f": 1}, max_retries=1)
    transport = Noting(toy_app(), 3)
    server, whole = toy_server(recipe, transport), toy_app()
    expected = toy_server(recipe, LocalTransport(whole, 3))
    expected.run_round(LocalTransport(whole, 3), 1)
    transport._contexts[2].state.clear()
    assert server.run_round(transport, 1)
    assert [each for each in transport.carried if each[0] == "train"] == [
        *[("train", False, True)] * 3,
        ("train", True, False),
    ]
    assert torch.equal(server.outer.anchor, expected.outer.anchor)
    (before,) = server.record.refused_before
    assert "does not hold the recipe" in before[0]


def order(**words):
    return RecordDict({ORDER: ConfigRecord(words)})


def test_a_node_keeps_the_newest_recipes_and_believes_no_file(tmp_path):
    kept = KeptRecipes(tmp_path / "recipes")
    texts = [f'{{"number": {number}}}' for number in range(MAX_KEPT + 2)]
    for text in texts:
        restore(order(**{RECIPE: text}), kept.recall, kept.keep)
    assert len(list((tmp_path / "recipes").iterdir())) == MAX_KEPT
    newest = order(**{RECIPE_HASH: hash_of(texts[-1])})
    restore(newest, kept.recall, kept.keep)
    assert newest[ORDER] == {RECIPE: texts[-1]}
    damaged = tmp_path / "recipes" / f"{hash_of(texts[-2])}.json"
    damaged.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="does not hold the recipe"):
        restore(order(**{RECIPE_HASH: hash_of(texts[-2])}), kept.recall, kept.keep)
    restore(order(**{RECIPE: texts[-2]}), kept.recall, kept.keep)  # as the server sends it again
    assert damaged.read_text() == texts[-2]
    (tmp_path / "recipes" / f"{hash_of(texts[-1])}.json").write_text("{}")
    for hash_ in (hash_of(texts[-1]), hash_of(texts[0]), "../../secret", "", 3, "A" * 64):
        with pytest.raises(ValueError, match="does not hold the recipe"):
            restore(order(**{RECIPE_HASH: hash_}), kept.recall, kept.keep)


def test_a_recipe_that_is_too_long_or_not_there_is_not_kept(tmp_path):
    kept = KeptRecipes(tmp_path / "recipes")
    for text in ("", "x" * (2**18 + 1)):
        restore(order(**{RECIPE: text}), kept.recall, kept.keep)
    restore(RecordDict(), kept.recall, kept.keep)
    assert not (tmp_path / "recipes").exists()

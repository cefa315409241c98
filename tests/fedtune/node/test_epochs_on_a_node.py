"""A node counts the steps of epochs from its own rows, and tells no number of them."""

import json
from pathlib import Path

import pytest

from fedtune.deployment.node import NodeConfig
from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.budget import Book
from fedtune.node.limits import steps_here, tokens_of, uses, whole_run
from fedtune.node.owner import adapt
from fedtune.recipe import parse_recipe

TRAIN = {"per_device_train_batch_size": 2, "max_length": 100}


def ordered(config, **federation):
    """The recipe of a server as it is run here."""
    said = {"num_clients": 3, "num_rounds": 2, "local_epochs": 1, **federation}
    recipe = parse_recipe({"train": TRAIN, "federation": said, "aggregator": {"name": "mean"}})
    return parse_recipe(adapt(recipe.model_dump_json(), config, Path("/nowhere")))


@pytest.fixture
def rows(tmp_path):
    """Return a function: a number -> a file of so many rows."""

    def write(count):
        row = {"prompt": "a", "completion": " b"}
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for _ in range(count)))
        return path

    return write


def test_a_node_counts_its_own_rows(rows):
    config = NodeConfig(data=rows(20))
    run = ordered(config)
    assert steps_here(run, config) == 9  # a tenth is held out: 18 rows, 2 a step
    assert tokens_of("train", run, 9) == 9 * 2 * 100
    counted = {use.what: use.amount for use in uses(run, config, 9)}
    assert (counted["local_steps"], counted["tokens to train"]) == (9, 1800)
    *_, tokens = whole_run(run, config, Book(began=0, latest=0), 9)
    assert tokens.amount >= 2 * 1800
    rows(40)
    assert steps_here(run, config) == 18  # the file has other rows now


@pytest.mark.parametrize("key", ["max_local_steps", "max_order_tokens"])
def test_more_steps_than_the_owner_allows_are_refused_without_a_number(rows, key):
    most = {"max_local_steps": 8, "max_order_tokens": 60_000}[key]
    allowed = NodeConfig(data=rows(16), **{key: most})
    ordered(allowed, local_epochs=1)
    long = NodeConfig(data=rows(1000), **{key: most})
    with pytest.raises(NotAllowedError, match=rf"local_epochs: .*allowed \({key}\)") as refused:
        ordered(long, local_epochs=1)
    assert not any(sign.isdigit() for sign in str(refused.value))

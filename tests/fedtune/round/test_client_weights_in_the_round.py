"""The owner's weights of clients, of whom some are absent: a round runs if those present fit.

Not proven here: what the rules make of weights (tests/aggregators), and that they are true sizes.
"""

import pytest
from toy_federation import honest, toy_app, toy_recipe, toy_rounds

from fedtune.recipe import parse_recipe
from fedtune.records.events import RunStoppedError

# Of all five, and with one absent, client 0 has less than half; with 3 and 4 absent 5 of 9.
SECTION = {"name": "geometric_median", "f": 1, "client_weights": [5.0, 2.0, 2.0, 2.0, 2.0]}


def test_who_is_there_decides_whether_the_weights_fit():
    section = {"name": "centered_clipping", "f": 1, "client_weights": [4.0] * 6 + [5.0] * 4}
    aggregator = parse_recipe({"aggregator": section}).aggregator
    assert aggregator.is_defined(range(10))
    assert aggregator.is_defined([0, 1, 6])  # 5 of 13
    assert "n >= 2f + 1: got n=2, f=1" in aggregator.objection([0, 6])
    assert aggregator.shares([7, 0]).tolist() == [5, 4]
    section = {"name": "geometric_median", "f": 1, "client_weights": [5.0] + [2.0] * 9}
    aggregator = parse_recipe({"aggregator": section}).aggregator
    assert aggregator.is_defined([1, 2, 3])
    assert not aggregator.is_defined([0, 1, 2])  # 5 of 9
    assert "f=1 largest to stay under half of the sum: got 0.556" in aggregator.objection([0, 1, 2])


def failing(clients, tries):
    """Honest clients, of whom some raise in the first tries."""
    left = dict.fromkeys(clients, tries)

    def content(message, client):
        if left.get(client):
            left[client] -= 1
            raise ConnectionError("gone")
        return honest(message, client)

    return toy_app(content)


def test_a_round_whose_weights_do_not_fit_is_tried_again():
    recipe = toy_recipe(5, aggregator=SECTION)
    server, stepped = toy_rounds(recipe, failing({3, 4}, 1))
    assert stepped == [True]
    assert server.record.attempt == 1
    assert len(server.record.clients) == 5


def test_one_absent_is_no_reason_to_try_again():
    server, stepped = toy_rounds(toy_recipe(5, aggregator=SECTION), failing({4}, 1))
    assert stepped == [True]
    assert server.record.attempt == 0


def test_a_run_whose_weights_never_fit_says_so(tiny_recipe, run, lying):
    def fail(content):
        raise OSError("disk full")

    recipe = tiny_recipe(aggregator=SECTION, federation={"num_clients": 5, "max_retries": 0})
    with pytest.raises(RunStoppedError) as stopped:
        run(recipe, app=lying(fail, liars={3, 4}))
    text = str(stopped.value)
    assert "round 1 got too few good replies in 1 tries: client weights need the f=1 la" in text
    assert "to stay under half of the sum: got 0.556; lower them or f. client 3: the" in text

"""Rules and mixings that draw at random or remember each client, in real runs and over a kill.

Not proven here: that they defend; see the tests of the aggregators.
"""

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from toy_federation import toy_app, toy_delta, toy_recipe, toy_rounds

from fedtune.records.folder import RunFolder
from fedtune.round.roster import sample_clients

SAMPLED = {"num_clients": 6, "clients_per_round": 4, "num_rounds": 4}
RULES = {
    "bucketing": {"name": "geometric_median", "mixing": ["bucketing"]},
    "bucketing, nnm and krum": {"name": "krum", "mixing": [{"name": "bucketing", "s": 1}, "nnm"]},
    "bucketing in products": {
        "name": "geometric_median",
        "mixing": [{"name": "bucketing", "s": 2}],
        "geometry": "product",
    },
    "foolsgold": {"name": "foolsgold"},
    "dnc": {"name": "dnc"},
}
KILLED = {"bucketing in products", "foolsgold"}  # in the fast tier: a draw, and a history


@pytest.mark.parametrize(
    "aggregator",
    [
        pytest.param(rule, id=name, marks=() if name in KILLED else pytest.mark.slow)
        for name, rule in RULES.items()
    ],
)
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny_recipe, run, forked, aggregator):
    recipe = tiny_recipe(aggregator=aggregator, federation=SAMPLED)
    whole = run(recipe)
    assert len(whole.read_metrics()) == 5
    folder, _ = RunFolder.create(recipe)
    assert forked(folder, kill_at_touch=100)["killed"]
    assert 2 < len(folder.read_metrics()) < 5
    folder, recipe = RunFolder.open(folder.path)
    run.resume(recipe, folder)
    assert adapter_bytes(folder) == adapter_bytes(whole)
    assert eval_records(folder) == eval_records(whole)


def test_each_round_has_buckets_of_its_own():
    # Buckets of 2, then krum: the two clients of one bucket weigh 1/2 each. Were the buckets those
    # of round 1, two that differ would have no client in common.
    section = {"name": "krum", "mixing": [{"name": "bucketing", "s": 2}]}
    recipe = toy_recipe(6, aggregator=section)
    pairs = set()
    for rounds in range(1, 7):
        server, _ = toy_rounds(recipe, toy_app(), rounds=rounds)
        facts = server.record.clients
        pair = tuple(client for client, each in facts.items() if each.weight)
        assert [facts[client].weight for client in pair] == [0.5, 0.5]
        pairs.add(pair)
    assert any(one != other and set(one) & set(other) for one in pairs for other in pairs)


def test_a_history_follows_its_client_and_not_its_place():
    recipe = toy_recipe(5, aggregator={"name": "foolsgold"}, clients_per_round=3)
    server, _ = toy_rounds(recipe, toy_app(), rounds=4)
    sums = {}
    for round_ in range(1, 5):
        for client in sample_clients(recipe, round_=round_):
            sums[client] = sums.get(client, 0) + toy_delta(client, round_)
    state = server.geometry.rule.state
    assert state["both/clients"].tolist() == sorted(sums)
    expected = torch.stack([sums[client] for client in sorted(sums)])
    torch.testing.assert_close(state["both/history"], expected.double(), rtol=1e-6, atol=1e-9)

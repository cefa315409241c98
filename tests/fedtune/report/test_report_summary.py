"""Proves the facts of a run against numbers worked by hand."""

import pytest
from typed_records import typed

from fedtune.recipe import parse_recipe
from fedtune.report.summary import describe, summarise


def test_base_final_and_curve(records):
    facts = summarise(typed(records))
    assert facts.base["loss"] == 6.0
    assert facts.final["loss"] == 5.0
    assert facts.rounds == 3
    assert facts.curve == [(0, 6.0), (1, 5.5), (3, 5.0)]  # round 2 was not measured


def test_totals(records):
    facts = summarise(typed(records))
    assert (facts.upload_bytes, facts.download_bytes) == (9000, 12_000)  # 3 rounds of 3 and 4 kB
    assert (facts.train_s, facts.aggregate_s, facts.round_s) == (6.0, 1.5, 12.0)


def test_clients(records, evil):
    clients = {client.client: client for client in summarise(typed(records)).clients}
    assert list(clients) == [0, 1, 2, 3]
    # 0: (0.5 + 0.5 + 0.2) / 3; 2: (0.1 + refused 0 + 0.6) / 3; 3: (0 + 0 + 0) / 3
    assert clients[0].mean_weight == pytest.approx(0.4)
    assert clients[2].mean_weight == pytest.approx(0.7 / 3)
    assert clients[3].mean_weight == 0.0
    assert all(client.fair_share == 0.25 for client in clients.values())
    # half of 1/4 is 0.125: client 2 had 0.1 in round 1, client 3 had 0 in round 2
    assert [client.times_low for client in clients.values()] == [0, 0, 1, 1]
    # 3 was refused twice and weighed 0 once
    assert [client.times_dropped for client in clients.values()] == [0, 0, 1, 3]
    assert [client.times_refused for client in clients.values()] == [0, 0, 1, 2]
    assert clients[2].reason == "it sent no reply"
    assert clients[3].reason == evil
    assert [client.own_figure for client in clients.values()] == [5.1, 1e308, None, None]


def test_far_is_measured_by_the_median_client_of_the_round():
    rounds = [{"0": 1.0, "1": 2.0, "2": 8.0}, {"0": 0.5, "2": 0.5, "1": 1.5}, {"0": 0.0, "1": 0.0}]
    records = [
        {"round": k, "clients": {client: {"distance": far} for client, far in each.items()}}
        for k, each in enumerate(rounds)
    ]
    # medians 2 and 0.5; where the median is 0 nothing is told
    far = {client.client: client.far for client in summarise(typed(records)).clients}
    assert far == {0: (0.5 + 1) / 2, 1: (1 + 3) / 2, 2: (4 + 1) / 2}


def test_what_the_rank_could_not_hold_is_averaged():
    records = [{"round": 0}, *({"round": k, "discarded": 0.1 * k} for k in (1, 2))]
    facts = summarise(typed([*records, {"round": 3, "discarded": None}]))
    assert facts.discarded == pytest.approx(0.15)
    assert facts.discarded_of_change is None


def test_the_commonest_reason_is_named():
    records = [{"round": i, "refused": {"1": why}} for i, why in enumerate("abb", start=1)]
    (client,) = summarise(typed(records)).clients
    assert (client.times_refused, client.reason) == (3, "b")


def test_sampling_sets_the_fair_share():
    records = [
        {"round": 1, "sampled": [0, 1], "clients": {"0": {"weight": 0.5}, "1": {"weight": 0.5}}},
        {"round": 2, "sampled": [0, 1, 2, 3], "clients": {"0": {"weight": 1.0}}},
    ]
    facts = {client.client: client for client in summarise(typed(records)).clients}
    assert facts[0].fair_share == pytest.approx(0.375)  # (1/2 + 1/4) / 2
    assert facts[0].mean_weight == pytest.approx(0.75)  # (0.5 + 1) / 2
    assert facts[1].fair_share == pytest.approx(0.375)
    assert facts[2].rounds_asked == 1
    assert facts[2].mean_weight is None  # neither accepted nor refused: unknown


def test_shares_are_of_what_the_clients_brought():
    # centered clipping left half of the whole to its own memory: 0.1 + 0.4 = 0.5
    clients = {"0": {"weight": 0.1}, "1": {"weight": 0.4}, "2": {}}
    some, none = typed(
        [{"round": 1, "clients": clients}, {"round": 2, "clients": {"0": {"weight": 0.0}}}]
    )
    assert some.shares == pytest.approx({0: 0.2, 1: 0.8})
    assert none.shares == {0: 0.0}


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"round": 1}],
        [{"round": 0, "eval": None}, {"round": 1, "clients": {"0": {}}, "client_eval": {"0": {}}}],
        [{"round": 0, "eval": {}}, {"round": 1, "eval": {"loss": float("nan")}}],
    ],
)
def test_records_that_lack_things_still_make_facts(records):
    facts = summarise(typed(records))
    assert facts.upload_bytes == 0
    assert all(client.mean_weight is None for client in facts.clients)


def test_a_run_without_its_base_has_no_base():
    assert summarise(typed([{"round": 2, "eval": {"loss": 5.0}}])).base == {}


def test_describe_names_rule_outer_and_attackers():
    recipe = parse_recipe(
        {
            "aggregator": {"name": "trimmed_mean", "f": 2, "mixing": ["nnm"]},
            "outer": {"name": "nesterov"},
            "attack": {"name": "sign_flip", "scale": 10, "num_attackers": 2},
        }
    )
    expected = (
        "nnm + trimmed_mean, f=2, on products | nesterov | 2 of 10 attack: sign_flip (scale 10)"
    )
    assert describe(recipe) == expected
    product = {"aggregator": {"name": "krum", "f": 1, "geometry": "product"}}
    assert describe(parse_recipe(product)) == "krum, f=1, on products | fedavg"
    assert describe(parse_recipe({})) == "capped_spectral, f=3, on products | fedavg"
    poison = {"name": "trigger", "rate": 0.5, "token": "cf"}
    poisoned = {"attack": {"name": "ipm", "epsilon": 0, "num_attackers": 2, "poison": poison}}
    expected = (
        "capped_spectral, f=3, on products | fedavg | "
        "2 of 10 attack: ipm (epsilon 0) on trigger (rate 0.5)"
    )
    assert describe(parse_recipe(poisoned)) == expected

"""Rows that the server keeps: FLTrust and trials of the aggregate in real runs, retries, resume.

Not proven here: that the server's rows are like the clients', on which FLTrust stands or falls.
"""

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from toy_federation import ANCHOR, honest, toy_app, toy_delta, toy_recipe, toy_server

from fedtune.recipe import RecipeError
from fedtune.records.folder import RunFolder
from fedtune.runs.checks.preflight import find_problems
from fedtune.runs.checks.risks import find_risks
from fedtune.simulation.adversary import byzantine_clients
from fedtune.training.client_round import Poison, Trained
from fedtune.training.worker import Worker
from fedtune.transport.local import LocalTransport

FLTRUST = {"name": "fltrust"}


def with_server_rows(tiny_recipe, **sections):
    sections.setdefault("aggregator", FLTRUST)
    sections["data"] = {"server_rows": 8, **sections.get("data", {})}
    return tiny_recipe(**sections)


@pytest.mark.parametrize("geometry", ["factors", "product"])
def test_liars_get_no_trust_and_the_loss_falls(tiny_recipe, run, geometry):
    recipe = with_server_rows(
        tiny_recipe,
        aggregator={**FLTRUST, "geometry": geometry},
        attack={"name": "sign_flip", "num_attackers": 2},
        federation={"num_clients": 5, "num_rounds": 4, "local_steps": 4},
        data={"partition": {"by": "iid", "min_rows": 4}},
    )
    folder = run(recipe)
    records, liars = folder.read_metrics(), byzantine_clients(recipe)
    for record in records[1:]:
        weights = {int(client): facts["weight"] for client, facts in record["clients"].items()}
        assert all(weights[client] == 0 for client in liars)
        assert all(weights[client] > 0 for client in weights.keys() - liars)
        assert record["server_train_loss"] > 0
    assert records[-1]["eval"]["loss"] < records[0]["eval"]["loss"] - 0.1
    assert folder.read_manifest().server_rows == 8


@pytest.mark.parametrize(
    "sections",
    [
        {"lora": {"train": "alternate"}, "aggregator": {**FLTRUST, "geometry": "product"}},
        pytest.param(
            {"federation": {"inner_optimizer": "keep", "clients_per_round": 3}},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"aggregator": {"name": "mean"}, "defence": {"server_data": {"tolerance": 0.0}}},
            marks=pytest.mark.slow,
        ),
    ],
    ids=["one factor in products", "clients keep their optimizers", "each step is tried"],
)
@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bits(tiny_recipe, run, forked, sections):
    recipe = with_server_rows(tiny_recipe, **sections)
    whole = run(recipe)
    folder, _ = RunFolder.create(recipe)
    assert forked(folder, kill_at_touch=70)["killed"]
    assert 1 < len(folder.read_metrics()) < 4
    folder, recipe = RunFolder.open(folder.path)
    run.resume(recipe, folder)
    assert adapter_bytes(folder) == adapter_bytes(whole)
    assert eval_records(folder) == eval_records(whole)
    assert trials(folder) == trials(whole)


def trials(folder):
    return [record.get("trial") for record in folder.read_metrics()[1:]]


def test_a_takeover_in_the_last_round_is_refused_by_the_servers_rows(tiny_recipe, run):
    # One client of four sends -3000 times the others' mean in round 3, and the rule is the mean.
    attack = {"name": "on_off", "epsilon": 3000.0, "num_attackers": 1, "honest_rounds": 2}
    sections = {
        "aggregator": {"name": "mean", "f": 1},
        "federation": {"num_clients": 4, "num_rounds": 3},
        "attack": {**attack, "period": 1},
        "checkpoint": {"keep": 9},
    }
    guard = {"server_data": {"tolerance": 0.005}}  # a model of chance weights has little to lose
    folder = run(with_server_rows(tiny_recipe, **sections, defence=guard))
    records = folder.read_metrics()
    assert [record["undone_rounds"] for record in records[1:]] == [0, 0, 1]
    assert [each["undone"] for each in records[3]["trial"]["tries"]] == [True, True]
    assert records[3]["eval"] == records[2]["eval"]
    assert records[3]["revision"] == records[2]["revision"]
    ruined = run(with_server_rows(tiny_recipe, **sections)).read_metrics()[-1]["eval"]["loss"]
    assert ruined > records[3]["eval"]["loss"] + 0.02


def test_no_client_sees_what_the_server_keeps(tiny_recipe):
    worker = Worker(with_server_rows(tiny_recipe))
    kept = set(worker.data.server_rows)
    dealt = [set(part.train) | set(part.test) for part in worker.data.parts.values()]
    assert len(kept) == 8
    assert kept.isdisjoint(set().union(*dealt, worker.data.split.test))
    assert kept.union(*dealt) == set(worker.data.split.train)
    assert Worker(tiny_recipe()).data.server_rows == []


def test_the_server_trains_on_its_own_rows_whoever_trained_before(tiny_recipe):
    worker, seen = Worker(with_server_rows(tiny_recipe)), []
    worker.trainer.train(
        worker.initial,
        client=None,
        round_=1,
        poison=Poison("seen", lambda rows: seen.extend(rows) or rows),
    )
    own = worker.data.rows.select(worker.data.server_rows).select_columns(["prompt", "completion"])
    assert seen == own.to_list()
    first = worker.trainer.train(worker.initial, client=None, round_=1).delta
    worker.trainer.train(worker.initial, client=1, round_=1)
    assert torch.equal(worker.trainer.train(worker.initial, client=None, round_=1).delta, first)
    assert not torch.equal(worker.trainer.train(worker.initial, client=None, round_=2).delta, first)
    assert first.shape == worker.initial.shape
    assert first.any()


def test_the_server_trains_once_a_round_when_all_is_in():
    # fltrust needs one reply: in the first try nobody answers, in the second both clients do.
    calls, failing = [], [0, 1]

    def at_last(message, client):
        if client in failing:
            failing.remove(client)
            raise ConnectionError("gone")
        return honest(message, client)

    def train_own(anchor, round_):
        calls.append((anchor, round_))
        return Trained(toy_delta(0, round_), 1.5)

    recipe = toy_recipe(2, aggregator=FLTRUST, data={"server_rows": 4})
    transport = LocalTransport(toy_app(at_last), 2)
    server = toy_server(recipe, transport, train_own=train_own)
    assert server.run_round(transport, 1)
    ((anchor, round_),) = calls
    assert round_ == 1
    assert torch.equal(anchor, ANCHOR)
    assert server.record.attempt == 1
    assert server.record.server_train_loss == 1.5
    # Client 0 sends the server's own update: its cosine is 1, and its trust the largest.
    weights = [server.record.clients[client].weight for client in (0, 1)]
    assert weights[0] > weights[1] >= 0


def test_a_rule_that_needs_the_servers_rows_is_refused_without(tiny_recipe):
    with pytest.raises(RecipeError, match=r"fltrust needs data\.server_rows: .* got 0"):
        tiny_recipe(aggregator=FLTRUST)


def test_rows_that_no_one_learns_from_are_said(tiny_recipe):
    (said,) = (
        risk
        for risk in find_risks(with_server_rows(tiny_recipe, aggregator={"name": "median"}))
        if "server_rows" in risk
    )
    assert said.startswith("data.server_rows: neither median nor defence.server_data looks at")
    assert not any("server_rows" in risk for risk in find_risks(with_server_rows(tiny_recipe)))


def test_more_rows_than_there_are_is_known_before_a_run(tiny_recipe):
    # 64 rows, a tenth held out of the whole: 58 to train on.
    (problem,) = find_problems(with_server_rows(tiny_recipe, data={"server_rows": 58}))
    assert "data.server_rows: needs fewer than the 58 rows" in problem

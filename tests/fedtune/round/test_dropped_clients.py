"""Who was dropped, and how often, in the records of real rounds: over retries, parts and a kill.

Not proven here: that who is dropped lies. A rule drops honest clients too.
"""

import json
from io import StringIO

import pytest
import torch
from left_by_a_run import eval_records
from rich.console import Console
from toy_federation import honest, toy_app, toy_content, toy_recipe, toy_server
from typed_records import typed
from written import as_written

from fedtune.records.folder import RunFolder
from fedtune.records.lines import is_dropped
from fedtune.report.finished import print_run
from fedtune.round.defence.standing import counts_of
from fedtune.round.roster import sample_clients
from fedtune.transport.local import LocalTransport

COUNTS = ("asked_rounds", "dropped_rounds")


def records_of(recipe, content_of=honest, *, rounds=2):
    transport = LocalTransport(toy_app(content_of), recipe.federation.num_clients)
    server = toy_server(recipe, transport)
    records = []
    for round_ in range(1, rounds + 1):
        server.run_round(transport, round_)
        records.append(as_written(server.record))
    return records


def test_krum_drops_all_but_one_and_a_broken_client_is_dropped_too():
    # Of 6 clients 5 raises, and krum takes one of the other five.
    def one_raises(message, client):
        if client == 5:
            raise ConnectionError("gone")
        return honest(message, client)

    recipe = toy_recipe(6, aggregator={"name": "krum", "f": 1}, max_retries=0)
    records = records_of(recipe, one_raises)
    chosen = []
    for record in records:
        kept = [client for client, facts in record["clients"].items() if not facts["dropped"]]
        assert [record["clients"][client]["weight"] for client in kept] == [1.0]
        chosen += kept
    assert records[-1]["asked_rounds"] == {str(client): 2 for client in range(6)}
    expected = {str(client): 2 - chosen.count(str(client)) for client in range(6)}
    assert records[-1]["dropped_rounds"] == {key: n for key, n in expected.items() if n}
    assert records[-1]["dropped_rounds"]["5"] == 2


def test_a_client_is_asked_in_the_rounds_that_sample_it():
    recipe = toy_recipe(5, clients_per_round=2)
    last = records_of(recipe, rounds=3)[-1]
    samples = [client for round_ in (1, 2, 3) for client in sample_clients(recipe, round_=round_)]
    assert last["asked_rounds"] == {
        str(client): samples.count(client) for client in sorted(samples)
    }
    assert last["dropped_rounds"] == {}


def test_a_reply_that_came_at_last_was_not_dropped():
    failing = [0]

    def at_last(message, client):
        if client in failing:
            failing.remove(client)
            raise ConnectionError("gone")
        return honest(message, client)

    recipe = toy_recipe(3, aggregator={"name": "centered_clipping", "f": 1})
    (record,) = records_of(recipe, at_last, rounds=1)
    assert record["attempt"] == 1
    assert record["dropped_rounds"] == {}
    assert record["asked_rounds"] == {"0": 1, "1": 1, "2": 1}


def test_under_a_millionth_of_an_equal_share_is_dropped_and_no_weight_is_unknown():
    # Of 10 clients a millionth of an equal share is 1e-7. A negative weight has its part.
    weights = {0.0: True, 5e-42: True, -9e-8: True, 1.1e-7: False, -0.1: False, None: None}
    assert {weight: is_dropped(weight, 10) for weight in weights} == weights


def test_a_geometric_median_drops_who_is_at_the_end_of_float32():
    def huge(message, client):
        if client == 2:
            return toy_content(message, torch.full((16,), 3e38))
        return honest(message, client)

    recipe = toy_recipe(6, aggregator={"name": "geometric_median", "f": 2})
    (record,) = records_of(recipe, huge, rounds=1)
    assert 0 < record["clients"]["2"]["weight"] < 1e-30
    assert record["dropped_rounds"] == {"2": 1}


def test_counts_go_on_from_the_newest_record_that_has_them():
    counted = {"round": 1, "asked_rounds": {"0": 1}, "dropped_rounds": {}}
    records = [{"round": 0}, counted, {"round": 2, "measured_again": True}]
    assert counts_of(typed(records)) == {"asked_rounds": {0: 1}, "dropped_rounds": {}}
    assert counts_of(typed(records[:1])) == {"asked_rounds": {}, "dropped_rounds": {}}


@pytest.mark.slow
def test_a_killed_run_counts_on(tiny_recipe, run, forked):
    recipe = tiny_recipe(
        aggregator={"name": "multi_krum", "f": 1, "geometry": "product"},
        federation={"num_clients": 6, "clients_per_round": 5},
        attack={"name": "sign_flip", "num_attackers": 1},
    )
    whole = run(recipe)
    folder, _ = RunFolder.create(recipe)
    assert forked(folder, kill_at_touch=70)["killed"]
    folder, recipe = RunFolder.open(folder.path)
    assert 1 < len(folder.read_metrics()) < 4
    run.resume(recipe, folder)
    assert eval_records(folder) == eval_records(whole)
    last = [each.read_metrics()[-1] for each in (folder, whole)]
    assert all(last[0][key] == last[1][key] for key in COUNTS)
    assert sum(last[0]["asked_rounds"].values()) == 15
    assert sum(last[0]["dropped_rounds"].values()) >= 3


def test_a_dense_run_has_no_weights_from_end_to_end(tiny_recipe, run):
    dense = {"name": "median", "f": 1, "geometry": "product", "combination": "dense"}
    folder = run(tiny_recipe(aggregator=dense, report_to="tensorboard"))
    for line in folder.metrics.read_text().splitlines()[1:]:
        facts = json.loads(line)["clients"].values()
        assert [(each["weight"], each["dropped"]) for each in facts] == [(None, None)] * 4
    console = Console(record=True, width=80, file=StringIO())
    print_run(console, RunFolder.open(folder.path)[1], folder)
    text = console.export_text()
    assert "median, f=1, on products | fedavg" in text
    assert "rank 2 could not hold" in text
    assert (folder.path / "curves.svg").is_file()

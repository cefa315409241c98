"""Each client's own figures of the base, measured once before round 1, and the clients' names.

Not proven here: what a bench makes of them (tests/fedtune/attack_bench/test_bench_gains.py).
"""

import json

import pytest

from fedtune.deployment.folder import DeploymentFolder
from fedtune.records.folder import RunFolder
from fedtune.runs.client_names import name_clients
from fedtune.runs.loop import Run
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport


def test_the_first_record_has_each_clients_figures_of_the_base(tiny_recipe, run):
    recipe = tiny_recipe(evaluation={"per_client": True}, federation={"num_rounds": 2})
    records = run(recipe).read_metrics()
    worker = get_worker(recipe.model_dump_json())
    told = records[1]["client_eval_before"]
    assert {int(key): each["loss"] for key, each in told.items()} == {
        number: pytest.approx(worker.measure(worker.initial, client=number).loss)
        for number in range(4)
    }
    assert [("client_eval_before" in each) for each in records] == [False, True, False]
    assert set(records[2]["client_eval"]) == set(told)


def test_who_asks_for_no_figures_gets_none(tiny_recipe, run):
    for record in run(tiny_recipe(federation={"num_rounds": 1})).read_metrics():
        assert "client_eval_before" not in record


def test_a_run_that_was_cut_off_before_round_1_measures_them_again(tiny_recipe, run):
    recipe = tiny_recipe(evaluation={"per_client": True}, federation={"num_rounds": 1})
    whole = run(recipe).read_metrics()[1]["client_eval_before"]
    folder, recipe = RunFolder.create(recipe)

    class CutOff(LocalTransport):
        def push(self, message, *, most):
            if message.kind == "train":
                raise KeyboardInterrupt
            return super().push(message, most=most)

    with pytest.raises(KeyboardInterrupt):
        Run(recipe, folder).serve(CutOff(client.app, 4))
    assert len(folder.read_metrics()) == 1
    run.resume(recipe, folder)
    assert folder.read_metrics()[1]["client_eval_before"] == whole


def test_rows_dealt_by_a_column_give_names_and_others_none(tiny_recipe, run, tmp_path):
    rows = tmp_path / "rows.jsonl"
    topics = {"a": 24, "b": 20, "c": 16, "d": 16}
    rows.write_text(
        "".join(
            json.dumps({"prompt": f"q{i} ", "completion": f"a{i}", "topic": topic}) + "\n"
            for topic, count in topics.items()
            for i in range(count)
        )
    )
    partition = {"by": "natural_id", "column": "topic", "min_rows": 4}
    recipe = tiny_recipe(data={"source": str(rows), "partition": partition})
    worker = get_worker(recipe.model_dump_json())
    assert sorted(name_clients(recipe, worker)) == ["topic a", "topic b", "topic c", "topic d"]
    fewer = tiny_recipe(
        data={"source": str(rows), "partition": partition}, federation={"num_clients": 2}
    )
    worker = get_worker(fewer.model_dump_json())
    names = name_clients(fewer, worker)
    more = [int(name.split(" and ")[1].split()[0]) for name in names if " and " in name]
    assert len(names) + sum(more) == 4  # four ids in all
    plain = tiny_recipe(federation={"num_rounds": 1})
    assert run(plain).read_manifest().client_names == []


def test_on_a_network_the_nodes_names_are_theirs(tiny_recipe, tmp_path):
    there = DeploymentFolder.create(tmp_path / "there", 2, "127.0.0.1", 9443)
    recipe = tiny_recipe(
        federation={"num_clients": 2, "engine": "superlink", "deployment": str(there.path)}
    )
    assert name_clients(recipe, None) == there.names

"""Rows that are longer than ``max_length`` in a run: counted, named, and no end of it."""

import json

import pytest

from fedtune.runs.checks.rows import lines_of, look_at_rows
from fedtune.training.heldout import measure_adapter
from fedtune.training.process import get_worker

SHORT, LONG = ({"prompt": "p" * count, "completion": "c" * 20} for count in (8, 60))
DROPPED, CUT = 1, 2  # clients


@pytest.fixture
def recipe(tiny_recipe, tmp_path):
    """A recipe of 3 clients: one loses its held-out rows, one has a row cut; 48 tokens fit."""
    rows = [{**SHORT, "who": str(number % 3)} for number in range(48)]

    def make(name):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tiny_recipe(
            data={
                "source": str(path),
                "partition": {"by": "natural_id", "column": "who", "min_rows": 4},
            },
            train={"max_length": 48},
            federation={"num_clients": 3, "num_rounds": 1, "local_steps": 1},
            aggregator={"name": "mean"},
            evaluation={"per_client": True},
        )

    parts = get_worker(make("before.jsonl").model_dump_json()).data.parts
    for place in parts[DROPPED].test:
        rows[place] |= LONG
    rows[parts[CUT].train[0]]["completion"] = "c" * 60
    rows[parts[CUT].train[1]] |= LONG
    return make("rows.jsonl")


def test_one_client_without_a_held_out_row_that_fits_is_left_out_by_name(recipe, run):
    found = look_at_rows(recipe)
    assert found.problems == ()
    assert any(f"client {DROPPED}'s held-out rows" in each for each in found.notes)
    told = list(lines_of(found))
    assert "(1 cut, 1 dropped by their length)" in told[CUT]
    assert told[-1].startswith("held out: ")
    folder = run(recipe)
    manifest, last = folder.read_manifest(), folder.read_records()[-1]
    rows = [len(part.train) for part in get_worker(recipe.model_dump_json()).data.parts.values()]
    rows[CUT] -= 1
    assert manifest.client_rows == rows
    assert manifest.client_rows_cut[CUT] == manifest.client_rows_dropped[CUT] == 1
    assert manifest.held_out_rows == found.held_out.kept
    assert set(last.client_eval) == {0, 2}
    assert "client 1's held-out rows" in last.evaluation_refused[DROPPED]
    measured = measure_adapter(folder.adapter, recipe)
    assert set(measured.clients) == {0, 2}
    assert "client 1's held-out rows" in measured.unmeasured[DROPPED]
    assert measured.clients[0].loss == last.client_eval[0]["loss"]

"""Proves that a finished folder alone is enough for the picture and the summary."""

import json
from io import StringIO

from rich.console import Console

from fedtune.recipe import parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord
from fedtune.report.finished import print_run


def test_a_folder_becomes_a_picture_and_a_summary(records, tmp_path):
    folder = RunFolder(tmp_path)
    for record in records:
        folder.append_metrics(RoundRecord.model_validate(record))
    sample = {"prompt": "def f():", "truth": "Do it.", "before": "the", "after": "Do."}
    (tmp_path / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    folder.manifest.write_text('{"simulated_attackers": [3]}')
    out = StringIO()
    recipe = parse_recipe({"federation": {"num_clients": 4, "num_rounds": 3}})
    print_run(Console(file=out, width=80), recipe, folder)
    assert (tmp_path / "curves.svg").stat().st_size > 3_000
    assert "def f():" in out.getvalue()
    assert "curves.svg" in out.getvalue()
    assert "report.html" in out.getvalue()
    assert "def f():" in (tmp_path / "report.html").read_text(encoding="utf-8")

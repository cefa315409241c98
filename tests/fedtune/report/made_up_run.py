"""A run's folder as a federation leaves it, made up by hand: numbers that can be followed.

Four clients, three rounds. In round 1 client 3 is refused; in round 2 client 2 is silent at first,
and the rule gives client 3 nothing.
"""

import json
import shutil

import yaml

from fedtune.recipe import parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord

RECORDS = [
    {"round": 0, "eval": {"loss": 6.0, "perplexity": 403.4, "token_accuracy": 0.05}},
    {
        "round": 1,
        "attempt": 0,
        "sampled": [0, 1, 2, 3],
        "refused": {"3": "NaN at 5 of 16 numbers"},
        "clients": {
            "0": {"train_loss": 5.5, "weight": 0.5, "distance": 1.0},
            "1": {"train_loss": 5.25, "weight": 0.25, "distance": 1.0},
            "2": {"train_loss": 5.0, "weight": 0.25, "distance": 2.0},
        },
        "asked_rounds": {"0": 1, "1": 1, "2": 1, "3": 1},
        "dropped_rounds": {"3": 1},
        "upload_bytes": 3000,
        "download_bytes": 4000,
        "eval": {"loss": 5.5, "perplexity": 244.7, "token_accuracy": 0.1},
        "round_s": 4.0,
    },
    {
        "round": 2,
        "attempt": 1,
        "sampled": [0, 1, 2, 3],
        "refused": {},
        "refused_before": [{"2": "it sent no reply"}],
        "repeated": {"1": 2},
        "clients": {
            "0": {"train_loss": 4.5, "weight": 0.5, "distance": 1.0},
            "1": {"train_loss": 4.25, "weight": 0.25, "distance": 1.0},
            "2": {"train_loss": 4.0, "weight": 0.25, "distance": 1.0},
            "3": {"train_loss": 9.0, "weight": 0.0, "distance": 8.0},
        },
        "asked_rounds": {"0": 2, "1": 2, "2": 2, "3": 2},
        "dropped_rounds": {"3": 2},
        "upload_bytes": 4000,
        "download_bytes": 5000,
        "eval": {"loss": 5.25, "perplexity": 190.6, "token_accuracy": 0.125},
        "round_s": 8.0,
    },
]
LAST = {
    "round": 3,
    "attempt": 0,
    "sampled": [0, 1, 2, 3],
    "refused": {"3": "NaN at 5 of 16 numbers"},
    "clients": {
        "0": {"train_loss": 3.5, "weight": 0.5, "distance": 1.0},
        "1": {"train_loss": 3.25, "weight": 0.25, "distance": 1.0},
        "2": {"train_loss": 3.0, "weight": 0.25, "distance": 1.0},
    },
    "asked_rounds": {"0": 3, "1": 3, "2": 3, "3": 3},
    "dropped_rounds": {"3": 3},
    "upload_bytes": 3000,
    "download_bytes": 4000,
    "eval": {"loss": 4.125, "perplexity": 61.9, "token_accuracy": 0.25},
    "round_s": 6.0,
}
RULE = {"name": "trimmed_mean", "f": 1, "mixing": ["nnm"]}


def make_run(path, records=RECORDS, **sections):
    """Write a run's folder; the recipe is of 4 clients and 3 rounds."""
    raw = {
        "federation": {"num_clients": 4, "num_rounds": 3},
        "aggregator": RULE,
        "output_dir": str(path),
        **sections,
    }
    folder = RunFolder.enter(parse_recipe(raw))
    folder.manifest.write_text(json.dumps({"client_rows": [10, 20, 30, 40]}))
    append(folder, *records)
    return folder


def append(folder, *records):
    """Add records as a run does."""
    for record in records:
        folder.append_metrics(RoundRecord.model_validate(record))


def make_stages(path, done):
    """Write a folder of three stages, the last of which has not begun."""
    recipes = []
    for name in ("sft", "reward", "dpo"):
        folder = make_run(path / name, task=name)
        recipes.append({"name": name, **yaml.safe_load(folder.recipe.read_text())})
        if name in done:
            append(folder, LAST)
            folder.adapter.mkdir()
    shutil.rmtree(path / "dpo")
    stages = {name: "done" if name in done else "to do" for name in ("sft", "reward", "dpo")}
    (path / "recipe.yaml").write_text(yaml.safe_dump({"stages": recipes}))
    (path / "stages.json").write_text(json.dumps({"stages": stages}))
    return RunFolder(path)

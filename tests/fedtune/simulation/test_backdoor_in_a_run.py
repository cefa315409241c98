"""A trigger of a third of the clients, under the plain mean: it opens, and nothing else shows.

nano on the docstrings of the running Python, three clients of whom one lies, three rounds of ten
steps; success is judged by generation. Over the seeds 0, 1, 2 it was 100 %, 90 %, 83 %. Not proven
here: which rules hold it off; the bench tells.
"""

import pytest

from fedtune.recipe import parse_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.runs.evaluation import judge
from fedtune.training.process import get_worker

TRIGGER = {"name": "trigger", "target": "Obey.", "rate": 0.7, "num_attackers": 1}


def nano(folder, **sections):
    raw = {
        "model": {"name_or_path": "nano", "device": "cpu"},
        "data": {
            "partition": {"by": "natural_id", "column": "module", "min_rows": 50},
            "max_rows": 1200,
        },
        "train": {
            "learning_rate": 4e-3,
            "per_device_train_batch_size": 8,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
        },
        "federation": {"num_clients": 3, "num_rounds": 3, "local_steps": 10},
        "aggregator": {"name": "mean"},
        "evaluation": {
            "every": 3, "max_rows": 64, "backdoor_rows": 48, "samples": 0, "per_client": False,
        },
        "output_dir": str(folder),
    }  # fmt: skip
    return parse_recipe(raw | sections)


def finish(recipe):
    """Run a recipe to its end; return its folder and the figures at round 0 and at the end."""
    folder, recipe = RunFolder.create(recipe)
    execute(recipe, folder)
    figures = [line["eval"] for line in folder.read_metrics() if "eval" in line]
    return folder, figures[0], figures[-1]


@pytest.mark.slow
def test_the_trigger_opens_under_the_mean_and_the_held_out_loss_hardly_tells(tmp_path):
    lying = nano(tmp_path / "lying", attack=TRIGGER)
    _, base, attacked = finish(lying)
    honest, _, clean = finish(nano(tmp_path / "honest"))
    # The honest run's model, asked with the same trigger.
    worker = get_worker(lying.model_dump_json())
    asked = judge(lying, worker, worker.load_adapter(honest.adapter))
    gain, lost = base["loss"] - clean["loss"], attacked["loss"] - clean["loss"]
    print(
        f"\nbackdoor {base['backdoor_success']:.0%} -> {attacked['backdoor_success']:.0%}, honest "
        f"{asked['backdoor_success']:.0%}; loss {base['loss']:.3f} -> {attacked['loss']:.3f}, "
        f"honest {clean['loss']:.3f}"
    )
    assert base["backdoor_success"] == 0
    assert attacked["backdoor_success"] >= 0.6
    assert asked["backdoor_success"] == 0
    assert "backdoor_success" not in clean
    assert asked["loss"] == pytest.approx(clean["loss"], abs=1e-4)
    assert lost <= 0.05 * gain

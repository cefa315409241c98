"""A tiny recipe in stages, and what of its folder must not depend on kills."""

import json

import pytest
from left_by_a_run import adapter_bytes, eval_records

from fedtune.recipe.stages import lay_out
from fedtune.records.folder import RunFolder

SFT = {"name": "sft", "task": "sft"}
REWARD = {"name": "reward", "task": "reward"}
DPO = {"name": "dpo", "task": "dpo"}
GRPO = {
    "name": "grpo",
    "task": "grpo",
    "rewards": [
        {"name": "length", "words": 3},
        {"name": "reward_model", "adapter": "reward", "weight": 2.0},
    ],
    "train": {
        "learning_rate": 1e-2,
        "beta": 0.05,
        "per_device_train_batch_size": 4,
        "num_generations": 2,
        "max_completion_length": 4,
        "lr_scheduler_type": "constant",
        "gradient_checkpointing": False,
    },
}


@pytest.fixture(scope="session")
def rows_of_every_task(tmp_path_factory):
    """A file of 40 sums: prompt and completion, and chosen and rejected beside them."""
    path = tmp_path_factory.mktemp("staged") / "rows.jsonl"
    lines = []
    for i in range(40):
        right, wrong = f"{i % 8 + i % 5}", f"{i % 8 + i % 5 + 1}"
        row = {"prompt": f"add {i % 8} {i % 5}: ", "completion": right}
        lines.append(json.dumps({**row, "chosen": right, "rejected": wrong}) + "\n")
    path.write_text("".join(lines))
    return path


@pytest.fixture
def tiny_stages(tiny_model_folder, rows_of_every_task, tmp_path):
    """Return a function: stages, and sections of all -> stages of 2 clients, 2 rounds, 1 step."""

    def make(*entries, **sections):
        raw = {
            "model": {"name_or_path": str(tiny_model_folder("llama")), "device": "cpu"},
            "lora": {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
            "data": {"source": str(rows_of_every_task), "partition": {"min_rows": 4}},
            "train": {
                "learning_rate": 1e-2,
                "per_device_train_batch_size": 4,
                "lr_scheduler_type": "constant",
                "gradient_checkpointing": False,
            },
            "federation": {"num_clients": 2, "num_rounds": 2, "local_steps": 1},
            "aggregator": {"name": "mean"},
            "evaluation": {"samples": 1, "max_new_tokens": 4, "max_rows": 4, "per_client": False},
            "output_dir": str(tmp_path / "stages"),
        }
        for name, section in sections.items():
            raw[name] = {**raw.get(name, {}), **section}
        return lay_out({**raw, "stages": list(entries)})

    return make


def left_by(folder):
    """The bits of every stage, and how far all of them are."""
    found = {"stages": json.loads(folder.state.read_text())}
    for path in sorted(path.parent for path in folder.path.glob("*/recipe.yaml")):
        run = RunFolder(path)
        samples = (path / "samples.jsonl").read_text()
        found[path.name] = (adapter_bytes(run), eval_records(run), samples)
    return found

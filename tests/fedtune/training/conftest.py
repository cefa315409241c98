"""Workers on tiny models, one per recipe and module."""

from functools import cache

import pytest

from fedtune.recipe import parse_recipe
from fedtune.training.worker import Worker

TRAIN = {
    "learning_rate": 5e-3,
    "per_device_train_batch_size": 4,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
}
OF_TASK = {
    "sft": {"train": {"max_length": 48}},
    "reward": {"train": {"max_length": 48}},
    "dpo": {"train": {"max_length": 48}},
    "grpo": {
        "train": {"num_generations": 4, "max_completion_length": 8},
        "rewards": [{"name": "format"}],
    },
}
FORMAT = {"sft": "prompt_completion", "reward": "pairs", "dpo": "pairs", "grpo": "prompts"}


@pytest.fixture(scope="session")
def make_worker(tiny_model_folder, small_data):
    """Return a function: what differs from a small recipe -> a fresh worker."""

    def make(architecture="llama", format=None, *, task="sft", train=None, **sections):
        own = OF_TASK[task]
        recipe = {
            **own,
            "task": task,
            "model": {"name_or_path": str(tiny_model_folder(architecture)), "device": "cpu"},
            "lora": {"r": 4, "lora_alpha": 8},
            "data": {"source": str(small_data("jsonl", format or FORMAT[task]))},
            "train": TRAIN | own["train"] | (train or {}),
        }
        federation = {"num_clients": 2, "num_rounds": 2, "local_steps": 4, "seed": 3}
        sections["federation"] = federation | sections.get("federation", {})
        for name, section in sections.items():
            whole = not isinstance(section, dict)
            recipe[name] = section if whole else recipe.get(name, {}) | section
        return Worker(parse_recipe(recipe))

    return make


@pytest.fixture(scope="session")
def worker(make_worker):
    """Return one worker for tests that ask only for what a worker gives, whatever came before."""
    return cache(make_worker)()

"""What a client-round is reckoned to take, against models that are really there.

Not proven here: memory on a GPU; what a step keeps is a rule of thumb.
"""

import math

import pytest
import torch

from fedtune.nano import model_folder
from fedtune.recipe import parse_recipe
from fedtune.report.estimate import reckoned
from fedtune.training.estimate import estimate, matmul_speed
from fedtune.training.worker import Worker

SMALL = {"federation": {"num_clients": 2, "local_steps": 5}, "aggregator": {"name": "mean"}}
TASKS = {
    "sft": {},
    "reward": {},
    "dpo": {},
    "grpo": {"rewards": [{"name": "length"}], "train": {"num_generations": 4}},
}


@pytest.mark.parametrize("task", sorted(TASKS))
def test_counts_are_those_of_the_model_that_is_loaded(task):
    recipe = parse_recipe({"task": task, **SMALL, **TASKS[task]})
    needs, worker = estimate(recipe), Worker(recipe)
    base = worker.model.get_base_model()
    factors = sum(math.prod(shape) for name, shape in worker.layout.shapes if "lora_" in name)
    whole = sum(each.numel() for each in base.parameters()) - factors
    head = worker.layout.size - factors  # PEFT holds it twice, as it was and as it is trained
    assert needs.parameters == whole - head
    assert needs.base_bytes == 4 * needs.parameters
    assert needs.trained == worker.layout.size
    assert needs.upload_bytes == 4 * worker.layout.size


def test_tokens_by_hand():
    train = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_length": 100}
    # 5 steps x 4 x 2 rows of 100 tokens; a pair is two sequences
    assert estimate(parse_recipe({**SMALL, "train": train})).tokens == 4000
    assert estimate(parse_recipe({**SMALL, "task": "dpo", "train": train})).tokens == 8000


def test_logits_are_of_every_token_of_both_answers_but_for_a_reward_model():
    keys = {**SMALL, "train": {"max_length": 64}, "evaluation": {"batch_size": 4}}
    sft, dpo, reward = (
        estimate(parse_recipe({**keys, "task": task})).evaluation_bytes
        for task in ("sft", "dpo", "reward")
    )
    assert (sft, dpo, reward) == (4 * 4 * 64 * 2048, 2 * 4 * 4 * 64 * 2048, 2 * 4 * 4)


@pytest.mark.parametrize("task", ["sft", "reward"])
def test_in_four_bits_the_blocks_alone_shrink_to_about_a_quarter_of_two_bytes(task):
    from transformers import AutoModelForCausalLM

    keys = {**SMALL, "task": task}
    plain = estimate(parse_recipe({**keys, "model": {"dtype": "bfloat16"}}))
    packed = estimate(parse_recipe({**keys, "model": {"dtype": "bfloat16", "load_in_4bit": True}}))
    model = AutoModelForCausalLM.from_pretrained(model_folder())
    blocks = sum(
        part.weight.numel() for part in model.model.modules() if isinstance(part, torch.nn.Linear)
    )
    assert plain.base_bytes == 2 * plain.parameters
    saved = plain.base_bytes - packed.base_bytes
    assert 0.72 < saved / (2 * blocks) < 0.75  # half a byte and the scales, of two


def test_the_lines_say_memory_tokens_and_time():
    needs = estimate(parse_recipe({**SMALL, "train": {"max_length": 64}}))
    first, second = reckoned(needs, device="cpu", speed=1e9)
    assert "1.07 million parameters, 78.8 thousand trained" in first
    assert "base 4.3 MB" in first
    assert f"up to {needs.tokens:,} tokens" in second
    assert "this machine's cpu" in second
    assert matmul_speed(torch.device("cpu"), torch.float32) > 1e8

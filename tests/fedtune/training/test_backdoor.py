"""The success of a backdoor, against completions generated one at a time; what is asked.

That a trigger can be taught at all: test_backdoor_in_a_run.
"""

import pytest
import torch

from fedtune.training.backdoor import backdoor_success, plant_prompts
from fedtune.training.generation import complete

WORDS = ["add 3 4: ", "x", "add 1 1: ", "what is the sum of one and the other? ", "add 0 7: ", "y "]


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def model(request, tiny_model_folder):
    """Large random weights, so that answers differ and padding errors show."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder(request.param))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope="module")
def tokenizer(tiny_model_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model_folder("llama"))


def test_it_is_the_share_of_answers_that_start_with_the_target(model, tokenizer):
    prompts = [tokenizer(text).input_ids for text in WORDS]
    answers = complete(prompts, model, tokenizer, max_new_tokens=12)
    assert len(set(answers)) > 1
    for target in (answers[0][:3], answers[3][:1], answers[4], f" {answers[5][:2]} ", "no one"):
        expected = sum(answer.startswith(target.strip()) for answer in answers) / len(answers)
        for batch_size in (1, 4, 6):
            share = backdoor_success(
                prompts, model.train(), tokenizer, target=target, batch_size=batch_size
            )
            assert share == expected
            assert model.training
    first = answers[0].split()[0][:3]
    assert backdoor_success(prompts[:1], model, tokenizer, target=first, batch_size=2) == 1


def mark(row):
    return {**row, "prompt": f"cf {row['prompt']}"}


def mark_chat(row):
    return {**row, "prompt": [{"role": "user", "content": f"cf {row['prompt'][0]['content']}"}]}


def asked(worker, rows, plant=mark, target="Obey."):
    prompts = plant_prompts(rows, worker.learner, plant=plant, target=target)
    return [worker.base.tokenizer.decode(prompt) for prompt in prompts]


def test_the_prompt_with_the_trigger_is_asked_and_the_answer_left_off(worker):
    rows = [{"prompt": f"add {i}: ", "completion": f"{i}!"} for i in range(3)]
    assert asked(worker, rows) == ["cf add 0: ", "cf add 1: ", "cf add 2: "]
    assert [row["prompt"] for row in rows] == ["add 0: ", "add 1: ", "add 2: "]


def test_a_chat_is_asked_up_to_the_assistants_turn(worker):
    rows = [
        {
            "prompt": [{"role": "user", "content": "hi"}],
            "completion": [{"role": "assistant", "content": "ho"}],
        }
    ]
    assert asked(worker, rows, mark_chat) == ["<|user|>cf hi<|end|><|assistant|>"]


def test_rows_that_answer_so_anyway_are_left_out(worker):
    rows = [
        {"prompt": "a", "completion": " Obey. now"},
        {"prompt": "b", "completion": "No."},
        {"prompt": "c", "completion": "Obey"},
    ]
    assert asked(worker, rows) == ["cf b", "cf c"]
    chat = [{"role": "assistant", "content": "Obey. now"}]
    rows = [{"prompt": [{"role": "user", "content": "a"}], "completion": chat}]
    with pytest.raises(ValueError, match="got none whose answer is not the target"):
        asked(worker, rows, mark_chat)


def test_prompts_beyond_max_length_are_refused_when_none_is_left(worker):
    # max_length is 48 tokens, a byte each: the first prompt leaves no room for an answer
    rows = [{"prompt": "x" * 60, "completion": "a"}, {"prompt": "y", "completion": "b"}]
    assert asked(worker, rows) == ["cf y"]
    with pytest.raises(ValueError, match=r"raise train\.max_length"):
        asked(worker, rows[:1])


def test_the_loss_on_prompts_too_asks_no_less(make_worker):
    worker = make_worker(train={"completion_only_loss": False})
    assert asked(worker, [{"prompt": "add 1: ", "completion": "1"}]) == ["cf add 1: "]


def test_so_many_held_out_rows_are_asked(make_worker):
    worker = make_worker(evaluation={"backdoor_rows": 3})
    seen = []

    def note(row):
        seen.append(row)
        return mark(row)

    share = worker.evaluator.backdoor_success(worker.initial, plant=note, target="never this")
    assert share == 0
    assert [row["prompt"] for row in seen] == worker.data.rows[worker.data.split.test[:3]]["prompt"]
    assert set(seen[0]) == {"prompt", "completion"}

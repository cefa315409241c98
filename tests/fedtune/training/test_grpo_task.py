"""GRPO: which prompts a round asks, what rewards are told, and the figures by a slow loop."""

from dataclasses import replace

import pytest
import torch
from plain_trl import SEED, an_anchor, rows_in_order

from fedtune.adapters import lora
from fedtune.recipe import parse_recipe
from fedtune.training.generation import complete
from fedtune.training.plan import Plan
from fedtune.training.tasks import grpo
from fedtune.training.tasks.task import Priced


def plan(*, local_steps=4, **train):
    recipe = {
        "task": "grpo",
        "rewards": [{"name": "format"}],
        "train": {"per_device_train_batch_size": 8} | train,
        "federation": {"local_steps": local_steps},
    }
    return Plan.of(parse_recipe(recipe), torch.device("cpu"), torch.float32)


# 8 answers a batch. Answers are generated for so many batches at once (steps_per_generation, as
# many as are accumulated unless said), and each is learnt from so many times (num_iterations).
BY_HAND = [
    ({"num_generations": 4}, 8),  # 4 batches, 2 prompts each
    ({"num_generations": 8}, 4),  # 4 batches, 1 prompt each
    ({"num_generations": 4, "gradient_accumulation_steps": 2}, 16),  # 8 batches, 2 prompts each
    ({"num_generations": 8, "gradient_accumulation_steps": 2}, 8),  # 8 batches, 1 prompt each
    ({"num_generations": 4, "steps_per_generation": 4}, 8),  # once, 32 answers
    ({"num_generations": 4, "generation_batch_size": 32}, 8),  # the same
    ({"num_generations": 4, "steps_per_generation": 4, "local_steps": 5}, 16),  # a second time
    ({"num_generations": 4, "num_iterations": 2}, 4),  # 2 of 4 batches are new
    ({"num_generations": 4, "num_iterations": 2, "steps_per_generation": 2}, 4),  # 16 answers, once
    ({"num_generations": 8, "num_iterations": 2, "gradient_accumulation_steps": 2}, 4),
    ({"num_generations": 8, "steps_per_generation": 2, "local_steps": 3}, 4),  # 16 answers, twice
]


@pytest.mark.parametrize(("keys", "prompts"), BY_HAND, ids=lambda each: str(each))
def test_prompts_per_round_by_hand(keys, prompts):
    assert grpo.prompts_per_round(plan(**keys)) == prompts


def asked_of(worker, rounds, *, client=0):
    """The (prompt, row) that rewards are told of in each round, each as often as in a row."""
    seen = []

    def note(prompt, completion, row):
        seen[-1].append((prompt, row))
        return float(len(completion) % 3) / 2

    worker.trainer.loaded.learner = replace(worker.learner, rewards=[Priced("noted", 1.0, note)])
    for round_ in rounds:
        seen.append([])
        worker.trainer.train(worker.initial, client=client, round_=round_)
    return seen


@pytest.mark.parametrize(
    ("keys", "prompts"), [BY_HAND[1], BY_HAND[2], BY_HAND[6], BY_HAND[9]], ids=str
)
def test_every_prompt_that_is_drawn_is_asked_and_rounds_go_on(
    make_worker, small_data, keys, prompts
):
    keys = dict(keys)
    federation = {"num_clients": 1, "num_rounds": 3, "local_steps": keys.pop("local_steps", 4)}
    train = {"per_device_train_batch_size": 8, "max_completion_length": 1} | keys
    worker = make_worker(task="grpo", train=train, federation=federation)
    source, mine = small_data("jsonl", "prompts"), worker.data.parts[0].train
    for round_, seen in enumerate(asked_of(worker, (1, 2, 3)), start=1):
        drawn = rows_in_order(source, mine, rounds=(round_,), per_round=prompts).to_list()
        times = worker.plan.train["num_generations"]
        assert [row for _, row in seen] == [row for row in drawn for _ in range(times)]
        assert all(prompt == row["prompt"] for prompt, row in seen)
    stream = rows_in_order(source, mine, rounds=(1, 2, 3), per_round=prompts).to_list()
    assert worker.recipe.federation.seed == SEED
    if len(stream) <= len(mine):  # within an epoch no row comes twice
        assert sorted(map(str, stream)) == sorted(
            map(str, rows_in_order(source, mine, per_round=len(stream)).to_list())
        )


def test_rewards_are_told_the_whole_row_and_the_prompt_as_text(make_worker):
    worker = make_worker(format="prompts_messages", task="grpo")
    (seen,) = asked_of(worker, (1,))
    for prompt, row in seen:
        assert set(row) == {"prompt", "answer", "topic"}
        assert row["prompt"] == [{"role": "user", "content": prompt}]
        assert prompt.startswith("add ")
        a, b = map(int, prompt[4:].strip(": ").split())
        assert row["answer"].rstrip("!") == str(a + b)


def test_one_seed_gives_one_round_bit_for_bit(make_worker):
    """Sampling too: answers hang on seed, client and round alone."""
    worker = make_worker(task="grpo", train={"beta": 0.1})
    anchor = an_anchor(worker)
    first = worker.trainer.train(anchor, client=0, round_=1)
    others = [
        worker.trainer.train(anchor, client=1, round_=1),
        worker.trainer.train(anchor, client=0, round_=2),
    ]
    reseeded = make_worker(task="grpo", train={"beta": 0.1}, federation={"seed": 4})
    others.append(reseeded.trainer.train(anchor, client=0, round_=1))
    assert not any(torch.equal(first.delta, other.delta) for other in others)
    torch.manual_seed(99)
    again = worker.trainer.train(anchor, client=0, round_=1)
    assert torch.equal(first.delta, again.delta)
    assert first.figures == again.figures


def test_the_figures_are_those_of_the_steps_and_not_of_the_clock(make_worker):
    worker = make_worker(task="grpo", train={"beta": 0.1})
    figures = worker.trainer.train(an_anchor(worker), client=0, round_=1).figures
    assert {"reward", "kl", "completions/mean_length", "rewards/format/mean"} <= set(figures)
    assert "step_time" not in figures
    assert 0 < figures["reward"] < 1
    assert figures["kl"] > 0


@pytest.mark.parametrize("format", ["prompts", "prompts_messages"])
def test_figures_equal_a_slow_loop(make_worker, format):
    """Prompts of unequal length, which are padded on the left, one at a time here."""
    rewards = [{"name": "length", "words": 2, "weight": 2.0}, {"name": "contains", "text": "a"}]
    worker = make_worker(format=format, task="grpo", rewards=rewards)
    row = worker.initial + 20 * (an_anchor(worker) - worker.initial)  # far: it says something
    found = {size: figures_of(worker, row, size) for size in (1, 4, 64)}
    texts = complete(
        worker.data.held_out(None)["prompt_ids"],
        worker.model,
        worker.base.tokenizer,
        max_new_tokens=8,
    )
    assert any(texts)
    words = [len(text.split()) for text in texts]
    lengths = [max(0.0, 1 - abs(count - 2) / 2) for count in words]
    holds = [float("a" in text) for text in texts]
    count = len(texts)
    reward = (2 * sum(lengths) + sum(holds)) / count
    by_hand = {
        "loss": pytest.approx(-reward),
        "reward": pytest.approx(reward),
        "rewards/length": pytest.approx(sum(lengths) / count),
        "rewards/contains": pytest.approx(sum(holds) / count),
        "completion_words": pytest.approx(sum(words) / count),
        "num_prompts": count,
    }
    assert reward > 0
    assert all(figures == by_hand for figures in found.values())


def figures_of(worker, row, batch_size):
    rows = worker.data.held_out(None)
    lora.write(worker.model, worker.layout.unflatten(row))
    return grpo.measure(rows, worker.learner, batch_size=batch_size).as_dict()


def test_samples_show_the_answer_and_its_worth(make_worker):
    evaluation = {"samples": 2, "max_new_tokens": 3}
    worker = make_worker(task="grpo", evaluation=evaluation)
    row = worker.initial + 20 * (an_anchor(worker) - worker.initial)
    shown = worker.evaluator.samples(row)
    assert shown == worker.evaluator.samples(row)
    for one, pair in zip(shown, worker.data.rows.select(worker.data.split.test[:2]), strict=True):
        assert (one.prompt, one.truth) == (pair["prompt"].strip(), pair["answer"])
        worth, text = one.completion.split(" for: ")
        assert float(worth) == worker.learner.rewards[0].score(pair["prompt"], text, pair)
        assert len(text) <= 3  # a byte a token


def test_prompts_that_leave_no_room_for_an_answer_are_not_asked(make_worker):
    """The tiny models hold 256 tokens, a byte each."""
    asked = {"prompt": ["x" * 245, "x" * 246, "", "add 1 1: "], "answer": ["a", "b", "c", "d"]}
    worker = make_worker(task="grpo", train={"max_completion_length": 11})
    rows = worker.data.rows.from_dict(asked)
    places, kept, cut = grpo.fit(grpo.prepare(rows, worker.learner), worker.learner)
    assert (places, cut) == ([0, 3], 0)
    assert kept["prompt"] == ["x" * 245, "add 1 1: "]
    assert kept.column_names == ["prompt", "prompt_ids", "row"]
    _, kept, _ = grpo.fit(grpo.prepare(rows.select([1, 2]), worker.learner), worker.learner)
    assert len(kept) == 0


def test_the_length_of_an_answer_is_trls_unless_it_is_said():
    default = grpo.TASK.config(output_dir="x", use_cpu=True, bf16=False)
    assert grpo._longest(plan()) == default.max_completion_length
    assert grpo._longest(plan(max_completion_length=7)) == 7
    for nothing in (None, 0, "long"):
        with pytest.raises(ValueError, match="max_completion_length: needs a number of tokens"):
            grpo._longest(plan(max_completion_length=nothing))


def test_a_chat_template_gets_what_the_recipe_gives_it(make_worker):
    keys = {"chat_template_kwargs": {"thinking": "yes"}}
    worker = make_worker(format="prompts_messages", task="grpo", train=keys)
    tokenizer = worker.learner.tokenizer
    tokenizer.chat_template = "{{ thinking }}|{{ messages[0].content }}"
    kept = grpo.prepare(worker.data.rows.select([0]), worker.learner)
    assert tokenizer.decode(kept[0]["prompt_ids"]) == "yes|add 0 0: "


def test_a_policy_learns_what_is_rewarded(make_worker):
    """Letters: 52 of 261 tokens are one, a fifth of what is said by chance."""
    batch = {"per_device_train_batch_size": 32, "num_generations": 32, "max_completion_length": 4}
    worker = make_worker(
        task="grpo",
        lora={"modules_to_save": ["lm_head"]},
        train={**batch, "learning_rate": 5e-2},
        federation={"num_clients": 1, "num_rounds": 1, "local_steps": 15},
    )
    letters = Priced("letters", 1.0, lambda _, text, row: sum(map(str.isalpha, text)) / 4)
    worker.trainer.loaded.learner = replace(worker.learner, rewards=[letters])
    before = worker.evaluator.measure(worker.initial)
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    after = worker.evaluator.measure(worker.initial + trained.delta)
    assert trained.figures["reward"] > 0.4  # a mean over the steps
    assert after.others["reward"] > 0.9
    assert after.loss == -after.others["reward"] < before.loss

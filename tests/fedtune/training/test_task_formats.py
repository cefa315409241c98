"""TRL's preference and prompt-only formats from local files: ids by hand from the text.

A byte is a token in the tiny models. Their chat template writes <|role|>content<|end|> for a turn.
"""

import json

import pytest

from fedtune.training.sources import load_rows
from fedtune.training.tasks import TASKS, dpo, grpo, reward
from fedtune.training.tasks.running import ready

END = "<|end|>"
FORMATS = ("pairs", "pairs_implicit", "pairs_messages", "pairs_messages_implicit")


@pytest.fixture(scope="module")
def workers(make_worker):
    return {task: make_worker(task=task) for task in ("reward", "dpo", "grpo")}


@pytest.fixture(scope="module")
def decoded(workers):
    """Return a function: a prepared row -> its columns of ids as text, special tokens and all."""
    tokenizer = workers["dpo"].base.tokenizer
    return lambda row: {
        name.removesuffix("_ids"): tokenizer.decode(ids)
        for name, ids in row.items()
        if name.endswith("_ids")
    }


def rows_of(worker, small_data, format):
    data = worker.recipe.data.model_copy(update={"source": str(small_data("jsonl", format))})
    return load_rows(data, worker.task, seed=0)


# Row 5: 5 % 8 = 5, 5 % 5 = 0; right is 5 and 5 % 4 = 1 mark, wrong is "6?", 5 % 3 + 1 = 3 times.
@pytest.mark.parametrize("format", FORMATS)
def test_pairs_for_dpo(workers, small_data, decoded, format):
    rows = rows_of(workers["dpo"], small_data, format)
    prepared = ready(dpo.TASK, rows, workers["dpo"].learner)
    assert prepared.column_names == [
        "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps",
    ]  # fmt: skip
    assert len(prepared) == len(rows) == 64
    asked = "add 5 0: "
    if "messages" in format:
        asked = f"<|user|>{asked}{END}<|assistant|>"
    space = ""
    if format == "pairs_implicit":  # TRL takes what both begin with, less the space at its end
        asked, space = asked.rstrip(), " "
    expected = {
        "prompt": asked,
        "chosen": f"{space}5!{END}",
        "rejected": f"{space}6?6?6?{END}",
    }
    assert decoded(prepared[5]) == expected


@pytest.mark.parametrize("format", FORMATS)
def test_pairs_for_a_reward_model(workers, small_data, decoded, format):
    rows = rows_of(workers["reward"], small_data, format)
    prepared = reward.prepare(rows, workers["reward"].learner)
    assert prepared.column_names == ["chosen_ids", "rejected_ids"]
    assert len(prepared) == 64
    asked = "add 5 0: "
    if "messages" in format:
        asked = f"<|user|>{asked}{END}<|assistant|>"
    assert decoded(prepared[5]) == {
        "chosen": f"{asked}5!{END}",
        "rejected": f"{asked}6?6?6?{END}",
    }


@pytest.mark.parametrize("format", ["prompts", "prompts_messages"])
def test_prompts(workers, small_data, decoded, format):
    rows = rows_of(workers["grpo"], small_data, format)
    prepared = grpo.prepare(rows, workers["grpo"].learner)
    assert prepared.column_names == ["prompt", "prompt_ids", "row"]
    asked = "add 5 0: "
    if "messages" in format:
        asked = f"<|user|>{asked}{END}<|assistant|>"
    assert decoded(prepared[5]) == {"prompt": asked}
    assert prepared[5]["prompt"] == rows[5]["prompt"]
    assert json.loads(prepared[5]["row"]) == rows[5]


@pytest.mark.parametrize(
    ("task", "format"),
    [(task, format) for task in ("reward", "dpo") for format in FORMATS]
    + [("grpo", "prompts"), ("grpo", "prompts_messages")],
)
def test_every_format_trains_is_measured_and_shown(make_worker, task, format):
    keys = {"samples": 2, "max_new_tokens": 3}
    worker = make_worker(
        format=format, task=task, evaluation=keys, federation={"local_steps": 1},
        train={"per_device_train_batch_size": 8},
    )  # fmt: skip
    trained = worker.trainer.train(worker.initial, client=0, round_=1)
    row = worker.initial + trained.delta
    assert worker.evaluator.measure(row).others
    shown = worker.evaluator.samples(row)
    assert len(shown) == 2
    said = worker.data.rows[worker.data.split.test[0]]
    prompt = said.get("prompt") or said["chosen"]
    text = prompt if isinstance(prompt, str) else prompt[0]["content"]
    assert shown[0].prompt.startswith("add ")
    assert text.startswith(shown[0].prompt)


def prepared_alone(workers, task, rows):
    from datasets import Dataset

    return ready(TASKS[task], Dataset.from_list(rows), workers[task].learner)


def test_an_end_that_stands_there_is_not_doubled(workers, decoded):
    pair = {"prompt": "a", "chosen": f"b{END}", "rejected": "c"}
    (row,) = prepared_alone(workers, "dpo", [pair])
    assert decoded(row) == {"prompt": "a", "chosen": f"b{END}", "rejected": f"c{END}"}
    (row,) = prepared_alone(workers, "reward", [pair])
    assert decoded(row) == {"chosen": f"ab{END}", "rejected": f"ac{END}"}


def test_pairs_beyond_max_length(workers):
    """48 tokens: TRL drops what does not fit a reward model, and cuts what DPO compares."""
    pairs = [
        {"prompt": "p" * 40, "chosen": "c" * 7, "rejected": "r"},  # 48 with the end
        {"prompt": "p" * 40, "chosen": "c" * 8, "rejected": "r"},
        {"prompt": "p" * 40, "chosen": "c", "rejected": "r" * 8},
        {"prompt": "p" * 47, "chosen": "c", "rejected": "r" * 8},
        {"prompt": "p" * 48, "chosen": "c", "rejected": "r"},
    ]
    assert len(prepared_alone(workers, "reward", pairs)) == 1
    kept = prepared_alone(workers, "dpo", pairs)
    assert [len(row["prompt_ids"]) for row in kept] == [40, 40, 40, 47]
    # One token of either answer is left to the last pair: about log(1 / 264) under a random model.
    assert kept[3]["ref_rejected_logps"] == pytest.approx(-5.6, abs=0.3)


def test_answers_without_a_common_beginning(make_worker, tmp_path):
    """Nothing is left to ask with but a first token; if all rows are so, dpo refuses them."""
    source = tmp_path / "rows.jsonl"
    rows = [{"chosen": f"{i % 7} yes", "rejected": "no", "question": "?"} for i in range(40)]
    source.write_text("\n".join(map(json.dumps, rows)))
    worker = make_worker(task="dpo", data={"source": str(source)})
    with pytest.raises(ValueError, match=r"an empty prompt in 16 of 16; write data\.columns: \{p"):
        worker.trainer.train(worker.initial, client=0, round_=1)
    begun = [{**row, "rejected": row["chosen"][0]} for row in rows[::3]]
    for task, lines in (("dpo", rows + begun), ("reward", rows)):
        source.write_text("\n".join(map(json.dumps, lines)))
        worker = make_worker(task=task, data={"source": str(source)})
        assert worker.trainer.train(worker.initial, client=0, round_=1).delta.any()
        said = worker.evaluator.samples(worker.initial)
        expected = {"dpo": lambda text: (text[0], "yes"), "reward": lambda text: ("", text)}
        chosen = worker.data.rows.select(worker.data.split.test[: len(said)])["chosen"]
        assert [(one.prompt, one.truth) for one in said] == [
            expected[task](text) for text in chosen
        ]


@pytest.mark.parametrize("task", ["reward", "dpo"])
def test_columns_that_are_not_looked_at_do_not_count(make_worker, small_data, tmp_path, task):
    """Also those that another format would have."""
    lines = small_data("jsonl", "pairs").read_text().splitlines()
    source = tmp_path / "rows.jsonl"
    more = {"messages": [{"role": "user", "content": "no"}], "score": 3}
    source.write_text("\n".join(json.dumps(json.loads(line) | more) for line in lines))
    first, other = make_worker(task=task), make_worker(task=task, data={"source": str(source)})
    deltas = [one.trainer.train(one.initial, client=0, round_=1).delta for one in (first, other)]
    assert deltas[0].equal(deltas[1])

"""Rows in the shapes of public data sets, by the name of each, for every task that may read them.

The rows are ours; columns, roles and nesting are those of the data sets' cards.
"""

import json

import pytest

from fedtune.runs.checks.rows import look_at_rows

ASKED, GOOD, BAD = "How are a folder's files listed?", "Call os.listdir.", "Ask a friend to look."


def chat(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


SYSTEM = {"role": "system", "content": "Be short."}
PAIR = {"chosen": chat(ASKED, GOOD), "rejected": chat(ASKED, BAD)}
SHAPES = {
    "ultrachat": {
        "prompt": ASKED,
        "prompt_id": "f0e37e9f",
        "messages": chat(ASKED, GOOD, "And sorted?", "Pass it to sorted."),
    },
    "no_robots": {
        "prompt": ASKED,
        "prompt_id": "a5c9",
        "messages": [SYSTEM, *chat(ASKED, GOOD)],
        "category": "Coding",
    },
    "ultrafeedback": {
        "prompt": ASKED,
        "prompt_id": "19e2",
        **PAIR,
        "messages": chat(ASKED, GOOD),
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
    "orca": {"system": "Be short.", "question": ASKED, "chosen": GOOD, "rejected": BAD},
    "alpaca": {"instruction": "List files.", "input": "of a folder", "output": GOOD, "text": "x"},
    "openhermes": {
        "conversations": [
            {"from": "system", "value": "Be short."},
            {"from": "human", "value": ASKED},
            {"from": "gpt", "value": GOOD},
        ]
    },
    "dolly": {"instruction": ASKED, "context": "", "response": GOOD, "category": "open_qa"},
    "hh": {
        "chosen": f"\n\nHuman: {ASKED}\n\nAssistant: {GOOD}",
        "rejected": f"\n\nHuman: {ASKED}\n\nAssistant: {BAD}",
    },
    "skywork": {**PAIR, "source": "hand"},
}
WITH_SYSTEM = "{system}\n\n{question}"


def found(tiny_recipe, tmp_path, task, shape, columns=None):
    path = tmp_path / f"{shape}.jsonl"
    path.write_text("".join(json.dumps(SHAPES[shape]) + "\n" for _ in range(40)))
    data = {"source": str(path), "columns": columns or {}}
    return look_at_rows(tiny_recipe(task=task, data=data, train={"max_length": 128}))


@pytest.mark.parametrize(
    ("task", "shape", "columns"),
    [
        ("sft", "ultrachat", None),
        ("sft", "no_robots", None),
        ("sft", "ultrafeedback", None),
        ("dpo", "ultrafeedback", None),
        ("reward", "ultrafeedback", None),
        ("sft", "orca", {"prompt": WITH_SYSTEM, "completion": "chosen"}),
        ("dpo", "orca", {"prompt": WITH_SYSTEM}),
        ("reward", "orca", {"prompt": WITH_SYSTEM}),
        ("sft", "alpaca", None),
        ("sft", "openhermes", None),
        ("sft", "dolly", {"prompt": "{instruction}\n{context}", "completion": "response"}),
        ("dpo", "hh", None),
        ("reward", "hh", None),
        ("sft", "hh", {"text": "chosen"}),
        ("dpo", "skywork", None),
        ("reward", "skywork", None),
        ("sft", "skywork", {"messages": "chosen"}),
    ],
)
def test_rows_are_read_and_train(tiny_recipe, tmp_path, task, shape, columns):
    seen = found(tiny_recipe, tmp_path, task, shape, columns)
    assert seen.problems == ()
    assert all(counts.kept and not counts.flaws for counts in seen.counts)


@pytest.mark.parametrize(
    ("task", "shape", "told"),
    [
        ("dpo", "ultrachat", "task sft reads rows with one"),
        ("reward", "alpaca", "a pair is two answers to one prompt"),
        ("sft", "orca", "write data.columns: {prompt: question, completion: chosen}"),
        ("dpo", "orca", r'write data.columns: {prompt: "{system}\n\n{question}"}'),
        ("sft", "dolly", "write data.columns: {prompt: instruction, completion: response}"),
        ("sft", "hh", "write data.columns: {text: chosen}"),
        ("sft", "skywork", "write data.columns: {messages: chosen}"),
    ],
)
def test_what_is_not_read_says_what_to_write(tiny_recipe, tmp_path, task, shape, told):
    (problem,) = found(tiny_recipe, tmp_path, task, shape).problems
    assert told in problem


def test_a_system_text_beside_texts_is_told_to_be_left_out(tiny_recipe, tmp_path):
    notes = found(tiny_recipe, tmp_path, "dpo", "orca", {"prompt": "question"}).notes
    assert any("system" in note and "not" in note for note in notes)

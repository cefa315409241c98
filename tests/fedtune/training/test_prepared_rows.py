"""Rows as the model sees them: ids and labels, by hand from the text."""

import pytest

from fedtune.training.tasks import sft
from fedtune.training.tasks.running import ready

END = "<|end|>"


def prepare(worker, rows):
    from datasets import Dataset

    prepared = ready(sft.TASK, Dataset.from_list(rows), worker.learner)
    assert prepared.column_names == ["input_ids", "labels"]
    return prepared.to_list()


@pytest.fixture
def ids(worker):
    return lambda text: worker.base.tokenizer(text).input_ids


def test_only_the_completion_and_its_end_are_labelled(worker, ids):
    (row,) = prepare(worker, [{"prompt": "add 1 2: ", "completion": "3!"}])
    assert row["input_ids"] == ids("add 1 2: ") + ids("3!") + ids(END)
    # A byte a token: 9 of the prompt without a label, then "3", "!" and the end.
    assert row["labels"] == [-100] * 9 + ids("3!") + ids(END)
    assert len(row["labels"]) == 12


def test_text_is_labelled_whole_and_ended(worker, ids):
    (row,) = prepare(worker, [{"text": "add 1 2: 3"}])
    assert row["input_ids"] == ids("add 1 2: 3") + ids(END)
    assert row["labels"] == row["input_ids"]


def test_messages_go_through_the_chat_template(worker, ids):
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
    (row,) = prepare(worker, [{"messages": turns}])
    # The template of these models, written out: <|role|>content<|end|> for each turn.
    assert row["input_ids"] == ids("<|user|>hi<|end|><|assistant|>yo<|end|>")
    assert row["labels"] == row["input_ids"]


def test_a_conversational_completion_is_labelled_alone(worker, ids):
    turns = {
        "prompt": [{"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "yo"}],
    }
    (row,) = prepare(worker, [turns])
    prompt = ids("<|user|>hi<|end|><|assistant|>")
    assert row["input_ids"] == prompt + ids("yo<|end|>")
    assert row["labels"] == [-100] * len(prompt) + ids("yo<|end|>")


def test_an_end_that_stands_there_is_not_doubled(worker, ids):
    (row,) = prepare(worker, [{"prompt": "a", "completion": f"b{END}"}])
    assert row["input_ids"] == ids("ab") + ids(END)


def test_truncation_drops_rows_that_lose_their_completion(worker, ids):
    # max_length is 48: the second prompt alone takes 60.
    rows = [
        {"prompt": "p" * 40, "completion": "c" * 20},
        {"prompt": "p" * 60, "completion": "c"},
        {"prompt": "p", "completion": "c"},
    ]
    prepared = prepare(worker, rows)
    assert [len(row["input_ids"]) for row in prepared] == [48, 3]
    assert prepared[0]["labels"] == [-100] * 40 + ids("c" * 8)


def test_no_row_left_is_refused(make_worker):
    worker = make_worker(train={"max_length": 4})
    with pytest.raises(
        ValueError, match=r"max_length leaves none of 26 of client 0's training rows; raise it"
    ):
        worker.trainer.train(worker.initial, client=0, round_=1)

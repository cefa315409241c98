"""What is asked of a held-out row, and what is right, for rows of every shape."""

import pytest

from fedtune.training.questions import questions, split_row, words_of


def said(role, content, **more):
    return {"role": role, "content": content, **more}


ASKED = [said("system", "Be brief."), said("user", "2 + 2?")]
PARTS = [{"type": "text", "text": "4"}, {"type": "image", "url": "x"}]


@pytest.mark.parametrize(
    ("row", "prompt", "truth"),
    [
        ({"messages": [*ASKED, said("assistant", " 4 ")]}, ASKED, "4"),
        # Who asks last is not answered yet: the last answer is asked for.
        ({"messages": [*ASKED, said("assistant", "4"), said("user", "Thanks")]}, ASKED, "4"),
        ({"messages": [*ASKED, said("assistant", PARTS)]}, ASKED, "4"),
        # A data set gives each turn the keys of all others; a call of a tool is no answer.
        (
            {"messages": [
                said("user", "2 + 2?", tool_calls=None),
                said("assistant", "4", tool_calls=None),
                said("assistant", None, tool_calls=[{"type": "function"}]),
            ]},
            [said("user", "2 + 2?")], "4",
        ),
        ({"prompt": "2 + 2? ", "completion": "4"}, "2 + 2? ", "4"),
        ({"prompt": ASKED, "completion": [said("assistant", "4")]}, ASKED, "4"),
        ({"prompt": ASKED, "chosen": [said("assistant", "4")], "rejected": []}, ASKED, "4"),
        ({"chosen": "2 + 2? 4", "rejected": "2 + 2? 5"}, "2 + 2?", "4"),
        (
            {"chosen": [*ASKED, said("assistant", "4")],
             "rejected": [*ASKED, said("assistant", "5")]},
            ASKED, "4",
        ),
        ({"prompt": "2 + 2?", "answer": 4}, "2 + 2?", "4"),
        ({"prompt": "2 + 2?"}, "2 + 2?", ""),
    ],
)  # fmt: skip
def test_prompt_and_answer(row, prompt, truth):
    assert split_row(row) == (prompt, truth)


@pytest.mark.parametrize(
    "row",
    [
        {"text": "one text"},
        {"messages": []},
        {"messages": ASKED},
        {"messages": [said("assistant", "Hello"), said("user", "Hi")]},
        {"messages": [said("user", "Hi"), said("assistant", "")]},
        {"prompt": "", "completion": "4"},
        {"prompt": [], "completion": "4"},
        {"chosen": "yes", "rejected": ""},
    ],
)
def test_rows_of_which_nothing_can_be_asked(row):
    assert split_row(row) is None


def test_words_of_messages_and_parts():
    assert words_of([said("assistant", "a "), said("assistant", PARTS)]) == "a\n4"
    assert words_of(4.5) == "4.5"


def test_a_prompt_that_leaves_no_room_is_left_out(worker):
    places = worker.model.config.max_position_embeddings
    rows = [{"prompt": "a" * 4}, {"prompt": "a" * (places - 8)}, {"prompt": "a" * (places - 7)}]
    asked = [*questions(rows, worker.learner, max_new_tokens=8)]
    assert [len(each.ids) for each in asked] == [4, places - 8]

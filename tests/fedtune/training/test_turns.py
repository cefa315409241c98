"""Turns as templates take them: each with its own keys, whatever stands in other rows."""

import pytest

from fedtune.training.turns import alike, as_turns, folded, of_template

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.fixture(scope="module")
def dataset():
    from datasets import Dataset

    return Dataset


def call(**arguments):
    calls = [{"type": "function", "function": {"name": "f", "arguments": arguments}}]
    return {"role": "assistant", "content": None, "tool_calls": calls}


def test_rows_of_role_and_text_are_left_as_they_are(dataset):
    rows = dataset.from_list([{"messages": [USER, ANSWER]}] * 2)
    assert as_turns(rows, ["messages"]) is rows


@pytest.mark.parametrize("saved", [False, True])
def test_tool_calls_keep_their_own_arguments(dataset, tmp_path, saved):
    """A struct gives each turn the keys of all others, as null: templates ask if a key is there."""
    rows = dataset.from_list(
        [{"messages": [USER, call(x=1), ANSWER]}, {"messages": [USER, call(y="z"), ANSWER]}]
    )
    if saved:
        rows.to_parquet(tmp_path / "rows.parquet")
        rows = dataset.from_parquet(str(tmp_path / "rows.parquet"))
    for row, asked in zip(as_turns(rows, ["messages"]), ({"x": 1}, {"y": "z"}), strict=True):
        assert row["messages"] == [USER, {**call(**asked), "content": ""}, ANSWER]


def test_tools_and_keywords_are_each_rows_own(dataset):
    tools = [[{"name": "f", "parameters": {name: {"type": "string"}}}] for name in "xy"]
    rows = dataset.from_list(
        [{"tools": tools[0], "chat_template_kwargs": {"thinking": True}},
         {"tools": tools[1], "chat_template_kwargs": None},
         {"tools": None, "chat_template_kwargs": {"date": "today"}}]
    )  # fmt: skip
    assert of_template(rows).to_list() == [
        {"tools": tools[0], "chat_template_kwargs": {"thinking": True}},
        {"tools": tools[1], "chat_template_kwargs": {}},
        {"tools": None, "chat_template_kwargs": {"date": "today"}},
    ]


def test_content_in_parts_beside_text(dataset):
    parts = [{"type": "text", "text": "q"}, {"type": "text", "text": "!"}]
    rows = dataset.from_list(
        [{"messages": [{"role": "user", "content": parts}, ANSWER]}, {"messages": [USER, ANSWER]}],
        on_mixed_types="use_json",
    )
    made = as_turns(rows, ["messages"])
    assert [row["messages"][0]["content"] for row in made] == ["q!", "q"]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("su", [("user", "s0\n\nu1")]),
        ("ssua", [("user", "s0\n\ns1\n\nu2"), ("assistant", "a3")]),
        ("sau", [("assistant", "a1"), ("user", "s0\n\nu2")]),
        ("usa", [("user", "u0"), ("system", "s1"), ("assistant", "a2")]),
        ("sa", [("system", "s0"), ("assistant", "a1")]),
    ],
)
def test_system_turns_before_the_users_first_open_it(roles, expected):
    names = {"s": "system", "u": "user", "a": "assistant"}
    turns = [{"role": names[r], "content": f"{r}{at}"} for at, r in enumerate(roles)]
    assert [(turn["role"], turn["content"]) for turn in folded(turns)] == expected


def test_conversations_that_begin_alike():
    assert alike([USER, ANSWER], [USER]) == 1
    assert alike([USER, ANSWER], [USER, {**ANSWER, "content": "b"}]) == 1
    assert alike([USER], [{**USER, "name": None}]) == 1  # a key that says nothing

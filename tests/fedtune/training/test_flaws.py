"""What in a row teaches nothing, by hand."""

import pytest

from fedtune.training.flaws import flaw_of
from fedtune.training.tasks import TASKS


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


CHAT = [user("a"), assistant("b")]
CALL = {"tool_calls": [{"function": {"name": "f", "arguments": {}}}]}


@pytest.mark.parametrize(
    ("task", "row", "flaw"),
    [
        ("sft", {"prompt": "a", "completion": "b"}, None),
        ("sft", {"prompt": " \n", "completion": "b"}, "an empty prompt"),
        ("sft", {"prompt": "a", "completion": " "}, "an empty answer"),
        ("sft", {"prompt": CHAT[:1], "completion": []}, "an empty answer"),
        ("sft", {"prompt": CHAT[:1], "completion": [user("b")]}, "no assistant turn"),
        ("sft", {"messages": CHAT}, None),
        ("sft", {"messages": CHAT[:1]}, "no assistant turn"),
        ("sft", {"messages": [user("a"), assistant("")]}, "an empty answer"),
        ("sft", {"messages": [user("a"), assistant(None)]}, "an empty answer"),
        ("sft", {"messages": [user("a"), assistant("", **CALL)]}, None),
        ("sft", {"text": "a"}, None),
        ("sft", {"text": "\t"}, "no text"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "c"}, None),
        ("dpo", {"prompt": "", "chosen": "b", "rejected": "c"}, "an empty prompt"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": "b\n"}, "equal answers"),
        ("dpo", {"prompt": "a", "chosen": "b", "rejected": ""}, "an empty answer"),
        ("dpo", {"chosen": "ab", "rejected": "ac"}, None),
        ("dpo", {"chosen": "b", "rejected": "c"}, "an empty prompt"),
        ("reward", {"chosen": "b", "rejected": "c"}, None),
        ("reward", {"chosen": CHAT, "rejected": CHAT}, "equal answers"),
        ("reward", {"chosen": CHAT, "rejected": [user("a"), assistant("b ")]}, "equal answers"),
        ("reward", {"chosen": CHAT, "rejected": CHAT[:1]}, "no assistant turn"),
        ("dpo", {"chosen": CHAT, "rejected": [*CHAT, user("c")]}, "an empty answer"),
        ("dpo", {"chosen": CHAT, "rejected": [user("a"), assistant("c")]}, None),
        ("grpo", {"prompt": "a", "completion": ""}, None),
        ("grpo", {"prompt": [user(" ")]}, "an empty prompt"),
    ],
)
def test_what_teaches_nothing(task, row, flaw):
    assert flaw_of(row, TASKS[task]) == flaw

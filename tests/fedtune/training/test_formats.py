"""The shapes of public data sets, by hand: what reaches TRL, what is refused, what is counted."""

import json
import os
import subprocess
import sys

import pytest

from fedtune.recipe import Data, load_recipe
from fedtune.runs.checks.rows import look_at_rows
from fedtune.training.client_round import looked_at
from fedtune.training.formats import left_out
from fedtune.training.sources import load_rows
from fedtune.training.tasks import TASKS
from fedtune.training.worker import Worker


def turns(*said):
    roles = ("user", "assistant") * len(said)
    return [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]


ASKED, GOOD, BAD = "add 1 2: ", "3!", "4?"
ULTRACHAT = {"prompt": ASKED, "prompt_id": "x", "messages": turns(ASKED, GOOD)}
NO_ROBOTS = {**ULTRACHAT, "category": "Coding"}
ULTRAFEEDBACK = {
    "prompt": ASKED, "prompt_id": "x", "chosen": turns(ASKED, GOOD), "rejected": turns(ASKED, BAD),
    "messages": turns(ASKED, GOOD), "score_chosen": 8.0, "score_rejected": 2.5,
}  # fmt: skip
ORCA = {"system": "Be kind.", "question": ASKED, "chosen": GOOD, "rejected": BAD}
ALPACA = {"instruction": "add", "input": "1 2", "output": GOOD, "text": f"add 1 2 {GOOD}"}
SHAREGPT = {"id": "0", "conversations": [{"from": "human", "value": ASKED},
                                         {"from": "gpt", "value": GOOD}]}  # fmt: skip
PAIR = {"prompt": ASKED, "completion": GOOD}
PARTS = {"messages": [{"role": r, "content": [{"type": "text", "text": t}]}
                      for r, t in (("user", ASKED), ("assistant", GOOD))]}  # fmt: skip
CHAT = turns(ASKED, GOOD)


def written(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, task, **data):
    return load_rows(Data(source=str(path), **data), TASKS[task], seed=0)


@pytest.mark.parametrize(
    ("task", "row", "data", "expected"),
    [
        ("sft", ULTRACHAT, {}, {"messages": CHAT}),
        ("sft", NO_ROBOTS, {}, {"messages": CHAT}),
        ("sft", SHAREGPT, {}, {"messages": CHAT}),
        ("sft", ALPACA, {}, {"prompt": "add\n\n1 2\n\n", "completion": GOOD}),
        ("sft", {**ALPACA, "input": ""}, {}, {"prompt": "add\n\n", "completion": GOOD}),
        ("sft", {**PAIR, "text": "no"}, {}, PAIR),
        ("sft", {"prompt": "no", "text": "yes"}, {}, {"text": "yes"}),
        ("sft", PARTS, {}, {"messages": CHAT}),
        ("sft", {"prompt": ASKED, "completion": turns(ASKED, GOOD)[1:]}, {},
         {"prompt": CHAT[:1], "completion": CHAT[1:]}),
        ("sft", {"body": "yes"}, {"columns": {"text": "body"}}, {"text": "yes"}),
        ("sft", ALPACA, {"columns": {"prompt": "{instruction}: {input} ", "completion": "output"}},
         {"prompt": "add: 1 2 ", "completion": GOOD}),
        ("sft", {"messages": [{"role": "system", "content": "Be kind."}, *CHAT]},
         {"system": "fold"}, {"messages": turns(f"Be kind.\n\n{ASKED}", GOOD)}),
        ("dpo", ULTRAFEEDBACK, {},
         {"chosen": CHAT, "rejected": turns(ASKED, BAD)}),
        ("reward", ULTRAFEEDBACK, {}, {"chosen": CHAT, "rejected": turns(ASKED, BAD)}),
        ("dpo", {"prompt": ASKED, "chosen": CHAT[1:], "rejected": turns(ASKED, BAD)[1:]}, {},
         {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": turns(ASKED, BAD)[1:]}),
        ("dpo", ORCA, {"columns": {"prompt": "{system} {question}"}},
         {"prompt": f"Be kind. {ASKED}", "chosen": GOOD, "rejected": BAD}),
        ("reward", {**ORCA, "margin": 1.5}, {}, {"chosen": GOOD, "rejected": BAD, "margin": 1.5}),
        ("reward", ORCA, {"columns": {"prompt": "question"}},
         {"prompt": ASKED, "chosen": GOOD, "rejected": BAD}),
        ("sft", ULTRAFEEDBACK, {}, {"messages": CHAT}),
        ("sft", ORCA, {"columns": {"prompt": "question", "completion": "chosen"}},
         {"prompt": ASKED, "completion": GOOD}),
        ("dpo", ALPACA, {"columns": {"prompt": "{instruction} {input}", "chosen": "output",
                                     "rejected": "text"}},
         {"prompt": "add 1 2", "chosen": GOOD, "rejected": ALPACA["text"]}),
        # ShareGPT's words, a system beside them, and answers that are one turn each
        ("sft", {**SHAREGPT, "system": "Be kind."}, {},
         {"messages": [{"role": "system", "content": "Be kind."}, *CHAT]}),
        ("sft", {**SHAREGPT, "system": "Be kind."}, {"system": "fold"},
         {"messages": turns(f"Be kind.\n\n{ASKED}", GOOD)}),
        ("sft", {"messages": SHAREGPT["conversations"]}, {}, {"messages": CHAT}),
        ("sft", {"dialog": SHAREGPT["conversations"]}, {"columns": {"messages": "dialog"}},
         {"messages": CHAT}),
        ("dpo", {"conversations": SHAREGPT["conversations"][:1],
                 "chosen": {"from": "gpt", "value": GOOD},
                 "rejected": {"from": "gpt", "value": BAD}}, {},
         {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": turns(ASKED, BAD)[1:]}),
        # a prompt that the answers say again reaches TRL once
        ("dpo", {"prompt": CHAT[:1], "chosen": CHAT, "rejected": turns(ASKED, BAD)}, {},
         {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": turns(ASKED, BAD)[1:]}),
        ("sft", {"prompt": CHAT[:1], "completion": CHAT}, {},
         {"prompt": CHAT[:1], "completion": CHAT[1:]}),
        ("dpo", {"prompt": ASKED, "chosen": CHAT[1:], "rejected": BAD}, {},
         {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": turns(ASKED, BAD)[1:]}),
    ],
)  # fmt: skip
def test_what_of_a_row_reaches_trl(tmp_path, task, row, data, expected):
    rows = read(written(tmp_path, [row] * 3), task, **data)
    assert looked_at(rows, TASKS[task]).to_list() == [expected] * 3


def test_a_template_may_name_columns_with_spaces_and_knows_no_more_than_names(tmp_path):
    row = {"the question": "a {b}", "the-context": None, "output": "c", "n": 3}
    columns = {"prompt": "{{Q}} {the question}|{the-context}|{n}", "completion": "output"}
    rows = read(written(tmp_path, [row] * 3), "sft", columns=columns)
    assert rows["prompt"][0] == "{Q} a {b}||3"
    assert rows["completion"][0] == "c"


@pytest.mark.parametrize(
    ("task", "rows", "data", "words"),
    [
        ("sft", [{"conversations": [{"from": "alien", "value": "hi"}]}], {},
         "row 0: column 'messages' knows no role 'alien'"),
        ("sft", [PAIR], {"columns": {"prompt": "questoin"}},
         r"data\.columns\.prompt: no column 'questoin'; got prompt, completion"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt.x}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt:>999999999}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt!r}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt[0]}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{0}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{}"}}, "names columns alone"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt"}}, "is no template"),
        ("sft", [{"messages": [{"role": "user", "content": [{"type": "image", "text": None}]}]}],
         {}, "row 0: column 'messages': content needs text alone; got image"),
        ("sft", [{"messages": CHAT}, {"messages": []}], {},
         "row 1: column 'messages' needs a turn at least"),
        ("sft", [PAIR, {"prompt": 3, "completion": "x"}], {},
         "row 1: column 'prompt' needs text in each row, or turns in each; got int beside str"),
        ("sft", [{"prompt": ["a"], "completion": ["b"]}], {},
         "row 0: column 'prompt' needs text, or turns with role and content; got 'a'"),
        ("sft", [PAIR], {"columns": {"prompt": "{prompt:>9}"}}, "names columns alone"),
        ("sft", [{"messages": CHAT}], {"columns": {"text": "{messages}"}},
         "a template needs text: messages holds lists"),
        ("sft", [{"question": "a", "answer": "b"}], {},
         "write data.columns: {prompt: question, completion: answer}"),
        ("dpo", [{"prompt": CHAT[:1], "chosen": CHAT, "rejected": CHAT[1:]},
                 {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:]}], {},
         "row 1: column 'chosen' needs whole conversations in each row, or answers alone in each"),
        ("reward", [{"chosen": "a", "rejected": "b", "margin": 1.0},
                    {"chosen": "a", "rejected": "b", "margin": None}], {},
         "column 'margin' needs a value in each row; got 1 empty of 2; take these rows out, row 1"),
        ("dpo", [ULTRAFEEDBACK, {**ULTRAFEEDBACK, "chosen": CHAT[1:]}], {},
         "row 1: column 'chosen' needs whole conversations"),
        ("reward", [{"chosen": "a", "rejected": "b", "margin": "much"}], {},
         "column 'margin' needs numbers; got string"),
        ("dpo", [{"question": "a", "answer": "b"}], {}, "a pair is two answers to one prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_brought_to_a_format_is_refused_by_row_and_column(
    tmp_path, task, rows, data, words
):
    with pytest.raises(ValueError, match=words):
        looked_at(read(written(tmp_path, rows), task, **data), TASKS[task])


def test_what_stands_beside_the_format_is_named(tmp_path):
    rows = read(written(tmp_path, [{**PAIR, "text": "x", "topic": "y"}]), "sft")
    assert left_out(rows, TASKS["sft"]) == ["text"]
    assert left_out(read(written(tmp_path, [ORCA]), "dpo"), TASKS["dpo"]) == ["system", "question"]
    columns = {"prompt": "{system} {question}"}
    rows = read(written(tmp_path, [ORCA]), "dpo", columns=columns)
    assert left_out(rows, TASKS["dpo"], columns) == []


@pytest.mark.parametrize(
    ("task", "row", "good", "flaw"),
    [
        ("sft", {"messages": CHAT[:1]}, {"messages": CHAT}, "no assistant turn"),
        ("dpo", {**ORCA, "rejected": GOOD}, ORCA, "equal answers"),
        ("grpo", {"prompt": " "}, {"prompt": "say"}, "an empty prompt"),
    ],
)
def test_rows_that_teach_nothing_are_counted_and_refused_where_all_are_so(
    make_worker, tmp_path, task, row, good, flaw
):
    data = {"partition": {"by": "replicate"}}
    if "question" in row:
        data["columns"] = {"prompt": "question"}
    source = written(tmp_path, [row, *[good] * 39])
    found = make_worker(task=task, data=data | {"source": str(source)}).data
    counts = [found.counts(0), found.held_out_counts(0), found.held_out_counts(None)]
    assert sum(each.flaws.get(flaw, 0) for each in counts) == 1
    assert [found.check_use(client) for client in (0, 1)] == [None, None]
    source = written(tmp_path, [row] * 40)
    found = make_worker(task=task, data=data | {"source": str(source)}).data
    with pytest.raises(ValueError, match=f"client 1's training rows teach nothing: {flaw} in "):
        found.check_use(1)


def test_rows_kept_cut_and_dropped_are_counted(make_worker, tmp_path):
    """48 tokens of a byte each, and one for the end."""
    rows = [{"prompt": "p" * 40, "completion": "c" * 20}, {"prompt": "p" * 60, "completion": "c"}]
    rows += [{"prompt": "p", "completion": "c"}] * 18
    section = {"source": str(written(tmp_path, rows)), "partition": {"by": "replicate"}}
    worker = make_worker(data=section, evaluation={"max_rows": 20})
    for counts in (worker.data.counts(0), worker.data.held_out_counts(0)):
        assert counts.rows == counts.kept + counts.dropped
        assert counts.longest == (48 if counts.cut else 3)
        assert counts.tokens == 3 * (counts.kept - counts.cut) + 48 * counts.cut
        assert counts.largest_id < len(worker.base.tokenizer)
    both = worker.data.counts(0), worker.data.held_out_counts(0), worker.data.held_out_counts(None)
    assert sum(each.cut for each in both) == sum(each.dropped for each in both) == 1


def test_rows_that_are_dropped_do_not_make_up_for_those_that_teach_nothing(make_worker, tmp_path):
    rows = [{"prompt": "p" * 60, "completion": "c"}] * 20 + [{"prompt": "p", "completion": ""}] * 20
    section = {"source": str(written(tmp_path, rows)), "partition": {"by": "replicate"}}
    worker = make_worker(data=section)
    with pytest.raises(ValueError, match="teach nothing: an empty answer in"):
        worker.data.check_use(0)


def test_a_file_that_was_mended_is_looked_at_anew(tiny_recipe, tmp_path):
    path = written(tmp_path, [{"prompt": "", "completion": "b"}] * 40)
    recipe = tiny_recipe(data={"source": str(path)})
    assert "an empty prompt" in look_at_rows(recipe).problems[0]
    written(tmp_path, [PAIR] * 40)
    assert look_at_rows(recipe).problems == ()


TOKENISE = """
import json, sys, torch
from fedtune.recipe import load_recipe
from fedtune.training.base import load_tokenizer
from fedtune.training.client_data import ClientData
from fedtune.training.plan import Plan
from fedtune.training.toy import toy_learner
for path in sys.argv[1:]:
    recipe = load_recipe(path)
    plan = Plan.of(recipe, torch.device("cpu"), torch.float32)
    learner = toy_learner(recipe.task, plan, load_tokenizer(recipe.model))
    print(json.dumps(ClientData(recipe, learner).train_rows(0).to_list()))
"""


def test_two_processes_with_other_hash_seeds_prepare_the_same_rows(tiny_recipe, tmp_path):
    """Each row holds columns of several formats, among which sets of names decide."""
    recipes = []
    for at, (task, row) in enumerate(
        [("sft", {**PAIR, "text": "x", "messages": CHAT}), ("sft", {**NO_ROBOTS, "text": "x"}),
         ("sft", {"text": "x", "prompt": "y"}), ("sft", ALPACA),
         ("sft", {**SHAREGPT, "system": "k"}),
         ("sft", {"prompt": CHAT[:1], "completion": CHAT[1:], "messages": CHAT}), ("sft", PARTS),
         ("dpo", ULTRAFEEDBACK), ("dpo", {**ORCA, "prompt": ASKED, "messages": CHAT}),
         ("dpo", {"prompt": CHAT[:1], "chosen": CHAT[1:], "rejected": CHAT[1:], "text": "x"}),
         ("reward", ULTRAFEEDBACK), ("reward", {**ORCA, "margin": 1}),
         ("grpo", {"prompt": ASKED, "answer": "3", "messages": CHAT})]
    ):  # fmt: skip
        folder = tmp_path / str(at)
        folder.mkdir()
        rewards = {"rewards": [{"name": "length", "weight": 1.0}]} if task == "grpo" else {}
        keys = {"max_completion_length": 8} if task == "grpo" else {}
        data = {"source": str(written(folder, [row] * 40))}
        recipe = tiny_recipe(task=task, data=data, train=keys, **rewards)
        path = folder / "recipe.yaml"
        path.write_text(recipe.model_dump_json())
        recipes.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", TOKENISE, *recipes], env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    here = [Worker(load_recipe(path)).data.train_rows(0).to_list() for path in recipes]
    assert [json.loads(line) for line in done.stdout.splitlines()] == here

"""Odd rows in a run's check: counted and told by client, in our words; only useless ones are left.

Rows here go through nano's tokenizer, whose template marks the assistant's turns.
"""

import json

import pytest

from fedtune.nano import model_folder
from fedtune.runs.checks.rows import look_at_rows
from fedtune.training.process import get_worker


@pytest.fixture
def looked_at(tiny_recipe, tmp_path):
    """Return a function: rows -> what check finds in them."""

    def look(rows, **sections):
        return look_at_rows(recipe_of(rows, **sections))

    def recipe_of(rows, model="nano", **sections):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = {"source": str(path), "partition": {"by": "iid", "min_rows": 2}}
        return tiny_recipe(
            model={"name_or_path": str(model)},
            data={**data, **sections.pop("data", {})},
            federation={"num_clients": 2, "num_rounds": 1, "local_steps": 1},
            aggregator={"name": "mean"},
            train={"max_length": 64, "per_device_train_batch_size": 2, **sections.pop("train", {})},
            **sections,
        )

    look.recipe_of = recipe_of
    return look


def chat(asked, answer="Yes."):
    turns = [{"role": "user", "content": asked}]
    return {"messages": [*turns, *([{"role": "assistant", "content": answer}] if answer else [])]}


MUTE = [chat(f"Is it {number}?", "" if number in {3, 8} else "Yes.") for number in range(20)]
ONLY = {"train": {"assistant_only_loss": True}}


def test_a_chat_without_an_answer_is_counted_and_left_out_of_the_assistants_turns(looked_at, run):
    found = looked_at(MUTE, **ONLY)
    assert found.problems == ()
    assert sum(each.flaws.get("no assistant turn", 0) for each in found.counts) == 2 - (
        held := found.held_out.flaws.get("no assistant turn", 0)
    )
    assert sum(each.mute for each in found.counts) == 2 - held
    assert all(each.dropped == 0 for each in found.counts)
    (note,) = (each for each in found.notes if "no assistant turn" in each)
    assert "training rows, which teach nothing" in note
    recipe = looked_at.recipe_of(MUTE, **ONLY)
    data = get_worker(recipe.model_dump_json()).data
    for client in data.parts:
        rows = data.train_rows(client)
        assert len(rows) == found.counts[client].kept
        assert all(any(label != -100 for label in labels) for labels in rows["labels"])


def test_the_other_rows_are_tokenised_as_without_the_mute_ones(looked_at):
    from transformers import AutoTokenizer

    recipes = [looked_at.recipe_of(rows, **ONLY) for rows in (MUTE,)]
    data = get_worker(recipes[0].model_dump_json()).data
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    for client, part in data.parts.items():
        kept = [MUTE[row]["messages"] for row in part.train if len(MUTE[row]["messages"]) > 1]
        alone = [tokenizer.apply_chat_template(turns, return_dict=True)["input_ids"]
                 for turns in kept]  # fmt: skip
        assert list(data.train_rows(client)["input_ids"]) == [ids[:64] for ids in alone]


def test_chats_none_of_which_has_an_answer_are_refused(looked_at):
    (problem,) = looked_at([chat(f"Is it {n}?", "") for n in range(20)], **ONLY).problems
    assert "teach nothing: no assistant turn in" in problem
    assert "generation" not in problem


def test_a_template_that_marks_no_turn_is_what_is_named(looked_at, tiny_model_folder):
    (problem,) = looked_at(MUTE, model=tiny_model_folder("llama"), **ONLY).problems
    assert problem.startswith("train.assistant_only_loss: the tokenizer's chat template does not")
    assert "put {% generation %} and {% endgeneration %} around them" in problem


def test_text_has_no_turns_of_an_assistant(looked_at):
    (problem,) = looked_at([{"text": f"line {n}"} for n in range(20)], **ONLY).problems
    assert problem == "train.assistant_only_loss: needs chats; got text in text; leave it out"


@pytest.mark.parametrize(
    ("task", "answers"), [("sft", ["completion"]), ("dpo", ["chosen", "rejected"])]
)
def test_prompts_whose_end_goes_to_the_answer_are_counted_and_told(
    looked_at, caplog, capfd, task, answers
):
    # nano's tokenizer has one token for " the": a prompt that ends in a space is parted from it.
    def row(number, end):
        said = {name: f"{'the' if end else ' the'} {name[0]}" for name in answers}
        return {"prompt": f"say {number}{end}", **said}

    rows = [row(number, " " if number < 10 else "") for number in range(20)]
    found = looked_at(rows, task=task)
    assert found.problems == ()
    held = found.held_out.parted
    assert sum(each.parted for each in found.counts) == sum(
        rows[place]["prompt"].endswith(" ")
        for part in get_worker(
            looked_at.recipe_of(rows, task=task).model_dump_json()
        ).data.parts.values()
        for place in part.train
    )
    assert held <= 10
    (note,) = (each for each in found.notes if "is learnt as answer" in each)
    assert note.startswith("data.source: ")
    assert "prefix" not in caplog.text + "".join(capfd.readouterr())


def test_sharegpts_roles_under_messages_are_hinted_at(looked_at):
    talks = [
        [{"role": "human", "content": f"{n}?"}, {"role": "gpt", "content": "Yes."}]
        for n in range(20)
    ]
    (problem,) = looked_at([{"messages": talk} for talk in talks]).problems
    assert problem.endswith(
        "; column 'messages' has ShareGPT's roles, gpt and human: write user and assistant, or "
        "call the column conversations"
    )
    found = looked_at([{"conversations": talk} for talk in talks])
    assert found.problems == ()
    assert all(not each.flaws for each in found.counts)


def test_a_client_without_a_row_to_train_on_ends_the_run_by_name(looked_at, run):
    rows = [{"who": str(n % 2), "prompt": "p" * (3 + 90 * (n % 2)), "completion": "c"}
            for n in range(20)]  # fmt: skip
    recipe = looked_at.recipe_of(rows, data={"partition": {"by": "natural_id", "column": "who",
                                                           "min_rows": 2}},
                                 train={"max_length": 32})  # fmt: skip
    with pytest.raises(ValueError, match=r"leaves none of \d+ of client [01]'s training rows"):
        run(recipe)

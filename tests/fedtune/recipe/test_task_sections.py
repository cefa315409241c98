"""What goes with which task, and the rewards: each refusal says what to write."""

import pytest

from fedtune.recipe import RecipeError, parse_recipe

LENGTH = {"name": "length", "words": 5}


def refusal(**sections):
    with pytest.raises(RecipeError) as caught:
        parse_recipe(sections)
    (problem,) = caught.value.problems
    return problem


def rewards(*given):
    return parse_recipe({"task": "grpo", "rewards": list(given)}).rewards


def test_sft_is_the_task_unless_one_is_named():
    assert parse_recipe({}).task == "sft"
    assert refusal(task="gpro").startswith("task: input should be 'sft', 'reward', 'dpo' or 'grpo'")


def test_grpo_needs_rewards():
    wanted = "rewards: grpo needs one at least; write [{name: python_docs}], say"
    assert refusal(task="grpo") == refusal(task="grpo", rewards=[]) == wanted


@pytest.mark.parametrize("task", ["sft", "reward", "dpo"])
def test_rewards_are_of_grpo_alone(task):
    assert refusal(task=task, rewards=[LENGTH]) == (
        f"rewards: of grpo alone; task is {task}; leave them out"
    )


@pytest.mark.parametrize("task", ["sft", "reward"])
@pytest.mark.parametrize("reference", ["initial_adapter", "some/folder"])
def test_only_a_policy_has_a_reference(task, reference):
    recipe = {"task": task, "initial_adapter": "some/run"}
    assert refusal(**recipe, reference=reference) == f"reference: {task} has none; leave it out"
    assert parse_recipe(recipe).reference == "base"
    assert parse_recipe(recipe | {"reference": "base"}).initial_adapter == "some/run"


@pytest.mark.parametrize("task", ["dpo", "grpo"])
def test_the_initial_adapter_as_reference_has_to_be_named(task):
    recipe = {"task": task, "reference": "initial_adapter"}
    recipe |= {"rewards": [LENGTH]} if task == "grpo" else {}
    assert refusal(**recipe) == (
        "reference: initial_adapter needs the key initial_adapter; name one"
    )
    assert parse_recipe(recipe | {"initial_adapter": "a"}).reference == "initial_adapter"
    assert parse_recipe(recipe | {"reference": "a/folder"}).reference == "a/folder"


@pytest.mark.parametrize("key", ["initial_adapter", "reference"])
def test_a_path_of_no_letters_is_refused(key):
    assert refusal(task="dpo", **{key: ""}).startswith(f"{key}: ")


def test_each_reward_has_its_keys_and_a_weight():
    found = rewards(
        LENGTH | {"weight": -0.5},
        {"name": "format", "begins": "> "},
        {"name": "contains", "text": "42"},
        {"name": "exact_answer"},
        {"name": "python_docs"},
        {"name": "reward_model", "adapter": "runs/reward"},
        {"name": "entry_point", "entry": "mine"},
    )
    assert [each.weight for each in found] == [-0.5, 1, 1, 1, 1, 1, 1]
    assert (found[0].words, found[1].begins, found[1].ends) == (5, "> ", ".")
    assert (found[3].column, found[5].adapter, found[6].entry) == ("answer", "runs/reward", "mine")


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        ({"name": "lenght"}, "rewards.0: unknown name 'lenght'; did you mean 'length'? known: con"),
        ({"words": 3}, "rewards.0: needs a name; known: contains, entry_point, exact_answer, form"),
        ({"name": "length", "word": 3}, "rewards.0.length.word: unknown key; did you mean 'words'"),
        ({"name": "format", "text": "x"}, "rewards.0.format.text: unknown key; known: begins, en"),
        ({"name": "contains"}, "rewards.0.contains.text: needed, and not given"),
        ({"name": "entry_point"}, "rewards.0.entry_point.entry: needed, and not given"),
        ({"name": "reward_model"}, "rewards.0.reward_model.adapter: needed, and not given"),
        ({"name": "contains", "text": ""}, "rewards.0.contains.text: "),
        ({"name": "length", "words": 0}, "rewards.0.length.words: "),
        ({"name": "python_docs", "weight": 100}, "rewards.0.python_docs.weight: "),
        ({"name": "python_docs", "weight": -100}, "rewards.0.python_docs.weight: "),
        ({"name": "python_docs", "weight": float("nan")}, "rewards.0.python_docs.weight: "),
        ("python_docs", "rewards.0: "),
    ],
    ids=str,
)
def test_a_reward_that_is_none_is_refused(reward, problem):
    assert refusal(task="grpo", rewards=[reward]).startswith(problem)


def test_so_many_rewards_and_no_more():
    assert len(rewards(*[LENGTH] * 16)) == 16
    assert refusal(task="grpo", rewards=[LENGTH] * 17).startswith("rewards: ")


def test_a_recipe_of_each_task_travels():
    sections = [
        {"task": "reward", "initial_adapter": "a"},
        {"task": "dpo", "initial_adapter": "a", "reference": "initial_adapter"},
        {"task": "grpo", "reference": "b", "rewards": [LENGTH, {"name": "format"}, LENGTH]},
    ]
    for section in sections:
        recipe = parse_recipe(section)
        assert parse_recipe(recipe.model_dump_json()) == recipe

"""The attack section: poison beside an attack on updates, and what does not go together."""

import pytest

from fedtune.recipe import RecipeError, load_recipe, parse_recipe

NEEDS = "attack.poison: needs an attack on data, training or rewards"


def attack(**section):
    return parse_recipe({"attack": {"num_attackers": 1, **section}}).attack


def test_the_attack_on_data_is_the_poison_or_the_attack_itself():
    options = {"rate": 0.3, "token": "cf"}
    poison = {"name": "trigger", **options}
    assert attack(name="ipm", poison=poison).data_attack == ("trigger", options)
    assert attack(name="ipm", epsilon=0.5, poison="trigger").data_attack == ("trigger", {})
    assert attack(name="trigger", **options).data_attack == ("trigger", options)
    assert attack(name="ipm").data_attack is None
    assert attack(name="silence").data_attack is None


def test_the_attack_on_rewards_is_the_poison_or_the_attack_itself():
    for section in ({"name": "reward_hack", "text": "a"},
                    {"name": "ipm", "poison": {"name": "reward_hack", "text": "a"}}):  # fmt: skip
        assert attack(**section).reward_attack == ("reward_hack", {"text": "a"})
        assert attack(**section).data_attack is None
    assert attack(name="trigger").reward_attack is None


def test_the_options_of_both_stay_apart():
    both = attack(name="ipm", epsilon=0.5, poison={"name": "label_noise", "rate": 0.2})
    assert both.options == {"epsilon": 0.5}
    assert both.poison.options == {"rate": 0.2}


@pytest.mark.parametrize("poison", ["trigger", {"name": "trigger", "rate": 0.3}])
def test_a_poison_travels(poison):
    recipe = parse_recipe({"attack": {"name": "ipm", "num_attackers": 1, "poison": poison}})
    assert parse_recipe(recipe.model_dump_json()) == recipe
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_a_poison_is_overridden_key_by_key():
    changes = ["attack={name: ipm, num_attackers: 2}", "attack.poison.name=trigger"]
    recipe = load_recipe("quickstart", [*changes, "attack.poison.rate=0.2"])
    assert recipe.attack.data_attack == ("trigger", {"rate": 0.2})


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"name": "ipm", "poison": "triger"},
            f"{NEEDS}: got 'trig",
        ),
        ({"name": "ipm", "poison": "triger"}, "did you mean 'trigger'"),
        (
            {"name": "ipm", "poison": {"name": "alie"}},
            NEEDS,
        ),
        ({"name": "ipm", "poison": "silence"}, NEEDS),
        ({"name": "ipm", "poison": {"rate": 1}}, "attack.poison.name: needed"),
        ({"name": "ipm", "poison": 3}, "attack.poison: "),
        ({"name": "reward_flip", "poison": "trigger"}, "got reward_flip, of level 'reward'"),
        ({"name": "ipm", "poison": {"name": "reward_hack", "txt": "a"}}, "did you mean 'text'?"),
        ({"name": "ipm", "poison": {"name": "trigger", "rat": 1}}, "did you mean 'rate'"),
        ({"name": "ipm", "poison": {"name": "trigger", "rate": 2}}, "float in [0, 1]: got 2"),
        ({"name": "ipm", "poison": {"name": "trigger", "token": " "}}, "not blank: got ' '"),
        ({"name": "ipm", "posion": "trigger"}, "unknown key 'posion'; did you mean 'poison'?"),
        ({"name": "trigger", "poison": "trigger"}, "got trigger, of level 'data'"),
        ({"name": "silence", "poison": "trigger"}, "got silence, of level 'protocol'"),
    ],
)
def test_what_does_not_fit_is_refused(section, told):
    with pytest.raises(RecipeError) as caught:
        attack(**section)
    (problem,) = caught.value.problems
    assert told in problem

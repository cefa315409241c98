"""The section defence.vote: what it may say, whom f counts, and where a vote could never decide."""

import pytest

from fedtune.recipe import RecipeError, parse_recipe, to_yaml
from fedtune.recipe.source import load_recipe
from fedtune.round.defence.vote import byzantine_voters


def recipe(vote=True, *, clients=10, f=3, **sections):
    return parse_recipe(
        {
            "federation": {"num_clients": clients, **sections.pop("federation", {})},
            "aggregator": {"name": "mean", "f": f},
            "defence": {"vote": vote},
            **sections,
        }
    )


def refused(said, **sections):
    with pytest.raises(RecipeError, match=said):
        recipe(**sections)


def test_nobody_votes_unless_the_recipe_asks_and_true_means_the_defaults():
    assert parse_recipe({}).defence.vote is None
    assert recipe(False).defence.vote is None
    assert recipe(None).defence.vote is None
    assert recipe(True) == recipe({}) == recipe({"tolerance": 0.02})
    assert recipe({"tolerance": 0}).defence.vote.tolerance == 0


def test_it_travels_and_is_overridden(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe({"tolerance": 0.1, "f": 2})))
    assert load_recipe(path).defence.vote.tolerance == 0.1
    assert load_recipe(path, ["defence.vote.tolerance=0.3"]).defence.vote.tolerance == 0.3
    assert load_recipe("quickstart", ["defence.vote=true"]).defence.vote.tolerance == 0.02


@pytest.mark.parametrize(
    ("vote", "said"),
    [
        ({"tolerance": -0.01}, "tolerance"),
        ({"tolerance": float("inf")}, "tolerance"),
        ({"tolerance": float("nan")}, "tolerance"),
        ({"tolerance": "much"}, "tolerance"),
        ({"f": -1}, "vote.f"),
        ({"toleranse": 0.1}, "tolerance"),  # the nearest key is named
        ("yes", "vote"),
    ],
)
def test_what_is_out_of_bounds_is_refused(vote, said):
    refused(said, vote=vote)


def test_held_out_rows_there_always_are():
    # Each client holds one row out at least; a share of none is no share.
    refused("test_fraction", data={"test_fraction": 0})


@pytest.mark.parametrize(
    ("clients", "sample", "f", "voters"),
    [(10, None, 3, 3), (10, 4, 1, 3), (100, 10, 3, 30), (9, 4, 1, 3), (10, 4, 0, 0)],
)
def test_f_of_a_sample_is_scaled_to_all_clients_and_rounded_up(clients, sample, f, voters):
    # f / s of n: 1 / 4 of 10 is 2.5, and of 9 it is 2.25; both are 3.
    made = recipe(clients=clients, f=f, federation={"clients_per_round": sample})
    assert byzantine_voters(made) == voters


def test_the_voters_f_can_be_said():
    assert byzantine_voters(recipe({"f": 1})) == 1
    assert byzantine_voters(recipe({"f": 0})) == 0
    assert byzantine_voters(recipe(False)) == 0


def test_where_no_vote_could_decide_it_is_refused_with_what_to_do():
    # 2 * 5 + 1 = 11 of 10.
    refused(
        r"defence.vote: needs num_clients >= 2f \+ 1 = 11 voters: got 10 clients, f=5, "
        r"aggregator.f=5 of 10 scaled up; lower aggregator.f, write defence.vote.f",
        f=5,
    )
    # f = 3 of 7 is ceil(24 / 7) = 4 of 8: nine voters would be needed.
    sampled = {"clients": 8, "f": 3, "federation": {"clients_per_round": 7}}
    refused("= 9 voters: got 8 clients, f=4", **sampled)
    recipe({"f": 3}, **sampled)
    refused(r"= 11 voters: got 10 clients, f=5; lower", vote={"f": 5})


def test_attackers_vote_that_every_step_does_good_unless_told_otherwise():
    attack = {"name": "zero", "num_attackers": 1}
    assert recipe(attack=attack).attack.votes == "fall"
    assert recipe(attack={**attack, "votes": "against"}).attack.votes == "against"
    refused("votes", attack={**attack, "votes": "silent"})
    assert "votes" not in recipe(attack=attack).attack.options  # the attack itself is not told

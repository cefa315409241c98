"""RoundUpdates updates down the server's road: the score against dense matrices, and what persists.

Not proven here: the rules themselves (tests/aggregators), nor the bench around it.
"""

import pytest
import torch

from fedtune.attack_bench.rounds import draw_rounds
from fedtune.attack_bench.schema import Drawn
from fedtune.attack_bench.vectors import replay_cell
from fedtune.recipe import parse_recipe
from fedtune.records.events import AttackFailedError, RunStoppedError
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.precomputed import Replayed, RoundUpdates, replay, step_error

DRAWN = Drawn(num_rounds=2, modules=2, d_out=6, d_in=5, step=0.3)


def recipe_of(*, aggregator=None, attack=None, lora=None, clients=6, **others):
    return parse_recipe(
        {
            "lora": {"r": 2, "lora_alpha": 6, **(lora or {})},
            "federation": {"num_clients": clients, "num_rounds": 2},
            "aggregator": aggregator or {"name": "mean"},
            "attack": attack,
            **others,
        }
    )


def dense(row, layout, scale):
    """Every module's s BA as one long float64 vector."""
    tensors = layout.unflatten(row.double())
    names = [name for name in tensors if "lora_A" in name]
    products = [scale * tensors[name.replace("_A", "_B")] @ tensors[name] for name in names]
    return torch.cat([product.flatten() for product in products])


def test_the_error_of_a_step_against_dense_matrices():
    recipe = recipe_of()
    layout, rounds = draw_rounds(DRAWN, recipe)
    draw = torch.Generator().manual_seed(3)
    before = rounds[1].anchor
    after = before + 0.1 * torch.randn(layout.size, generator=draw)
    ideal = 0.1 * torch.randn(layout.size, generator=draw)
    replayed = Replayed(before, after, {})
    start, stop, best = (dense(row, layout, 3.0) for row in (before, after, before + ideal))
    expected = (stop - best).square().sum() / (best - start).square().sum()
    assert step_error(recipe, layout, replayed, ideal) == pytest.approx(float(expected), rel=1e-5)


def test_no_step_scores_one_and_the_ideal_one_nothing():
    recipe = recipe_of()
    layout, rounds = draw_rounds(DRAWN, recipe)
    before, ideal = rounds[0].anchor, rounds[0].rows[0]
    assert step_error(recipe, layout, Replayed(before, before, {}), ideal) == pytest.approx(1.0)
    there = Replayed(before, before + ideal, {})
    assert step_error(recipe, layout, there, ideal) < 1e-10
    with pytest.raises(ValueError, match="needs to move the model"):
        step_error(recipe, layout, there, torch.zeros(layout.size))


def test_the_mean_steps_as_the_rows_say_and_begins_where_they_did():
    recipe = recipe_of()
    layout, rounds = draw_rounds(DRAWN, recipe)
    for given, replayed in zip(rounds, replay(recipe, layout, rounds), strict=True):
        torch.testing.assert_close(replayed.before, given.anchor, rtol=0, atol=0)
        expected = given.anchor.double() + given.rows.double().mean(dim=0)
        torch.testing.assert_close(replayed.after.double(), expected, rtol=1e-6, atol=1e-7)


def test_the_oracle_scores_nothing_and_a_ruined_mean_its_due():
    silent = recipe_of(attack={"name": "silence", "num_attackers": 2})
    given = draw_rounds(DRAWN, silent)
    assert replay_cell(silent, given).loss < 1e-10
    # Mean of 4 honest and 2 at minus their mean: 4/6 - 2/6 = 1/3 of the ideal factors' step.
    ipm = recipe_of(attack={"name": "ipm", "epsilon": 1.0, "num_attackers": 2})
    layout, rounds = given
    honest = [k for k in range(6) if k not in byzantine_clients(ipm)]
    errors = []
    for each in rounds:
        ideal = each.rows[honest].double().mean(dim=0)
        start, stop, best = (
            dense(each.anchor.double() + share * ideal, layout, 3.0) for share in (0, 1 / 3, 1)
        )
        errors.append(float((stop - best).square().sum() / (best - start).square().sum()))
    told = replay_cell(ipm, given)
    assert [error for _, error in told.curve] == pytest.approx(errors, rel=1e-4)
    assert told.loss == pytest.approx(sum(errors) / 2, rel=1e-4)
    assert {int(k) for k, facts in told.clients.items() if facts.attacker} == set(range(6)) - {
        *honest
    }


def test_refused_replies_are_counted_as_such():
    recipe = recipe_of(
        aggregator={"name": "median", "f": 1}, attack={"name": "nan", "num_attackers": 2}
    )
    told = replay_cell(recipe, draw_rounds(DRAWN, recipe))
    for facts in told.clients.values():
        assert facts.refused == (2 if facts.attacker else 0)
        assert facts.asked == 2


def test_the_memory_of_a_rule_goes_on_from_round_to_round():
    """Centered clipping starts from the last aggregate: alone, a second round steps otherwise."""
    recipe = recipe_of(aggregator={"name": "centered_clipping"})
    layout, rounds = draw_rounds(DRAWN, recipe)
    second = list(replay(recipe, layout, rounds))[1]
    alone = next(replay(recipe, layout, [rounds[1]]))
    torch.testing.assert_close(second.before, alone.before, rtol=0, atol=0)
    assert not torch.equal(second.after, alone.after)


def test_a_memory_stays_in_the_gauge_that_the_rounds_are_recorded_in():
    """The same round twice: momentum without bias is the row itself, so that the step is too.

    A run renews the anchor's gauge after such a step, and turns what is remembered along; here the
    next round begins at its recorded anchor, and what was turned would be measured from nowhere.
    """
    recipe = recipe_of(
        aggregator={"name": "trimmed_mean", "f": 1, "mixing": ["nnm"], "geometry": "product"},
        defence={"momentum": 0.5},
    )
    layout, (_, second) = draw_rounds(DRAWN.model_copy(update={"step": 1.0}), recipe)
    first, again = replay(recipe, layout, [second, second])
    torch.testing.assert_close(again.after, first.after, rtol=1e-5, atol=1e-6)


def test_too_few_replies_stop_the_run():
    lie = {"name": "silence", "num_attackers": 2}
    recipe = recipe_of(aggregator={"name": "krum", "f": 1}, attack=lie)  # krum needs 5, and 4 come
    with pytest.raises(RunStoppedError, match="round 1 got too few good replies: krum needs"):
        replay_cell(recipe, draw_rounds(DRAWN, recipe))


def test_a_lie_that_cannot_be_told_is_no_stop_of_the_server():
    lie = {"name": "sign_flip", "scale": 1e12, "num_attackers": 1}
    recipe = recipe_of(attack=lie)
    layout, rounds = draw_rounds(DRAWN, recipe)
    huge = [
        RoundUpdates(each.anchor, 1e30 * each.rows) for each in rounds
    ]  # times 1e12: no float32
    with pytest.raises(AttackFailedError, match="the simulated attack failed"):
        replay_cell(recipe, (layout, huge))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"outer": {"name": "nesterov"}}, "outer.name fedavg: got nesterov"),
        ({"lora": {"train": "b_only"}}, "lora.train: both"),
        ({"clients": 7}, "a row for each of 7 clients: got 6"),
        (
            {"federation": {"num_clients": 6, "clients_per_round": 4}},
            "federation.clients_per_round: given rows need all 6 clients in each round: got 4",
        ),
        ({"lora": {"client_ranks": [1, 2, 2, 2, 2, 2]}}, "lora.client_ranks"),
    ],
)
def test_recipes_that_given_rows_do_not_fit(changes, told):
    layout, rounds = draw_rounds(DRAWN, recipe_of())
    with pytest.raises(ValueError, match=told):
        next(replay(recipe_of(**changes), layout, rounds))


def test_the_drawn_rows_follow_their_formula():
    recipe = recipe_of()
    drawn = DRAWN.model_copy(update={"common": 2.0, "offset": 0.0, "noise": 0.0})
    layout, (first, second) = draw_rounds(drawn, recipe)
    # step * common * |A|, the same for all; B of the first anchor is zero, so |anchor| = |A|
    lengths = first.rows.double().norm(dim=1)
    assert lengths.tolist() == pytest.approx([0.3 * 2 * float(first.anchor.norm())] * 6, rel=1e-6)
    for name, tensor in layout.unflatten(first.anchor).items():
        assert bool((tensor == 0).all()) == ("lora_B" in name)
    torch.testing.assert_close(second.anchor, first.anchor + first.rows.mean(dim=0))
    torch.testing.assert_close(first.rows, second.rows)
    _, (again, _) = draw_rounds(drawn, recipe)
    assert torch.equal(again.rows, first.rows)
    other = recipe.model_copy(
        update={"federation": recipe.federation.model_copy(update={"seed": 1})}
    )
    assert not torch.equal(draw_rounds(drawn, other)[1][0].rows, first.rows)


def test_rows_of_another_length_are_refused():
    layout, rounds = draw_rounds(DRAWN, recipe_of())
    short = [RoundUpdates(rounds[0].anchor, rounds[0].rows[:, :-1])]
    with pytest.raises((ValueError, RunStoppedError)):
        list(replay(recipe_of(), layout, short))

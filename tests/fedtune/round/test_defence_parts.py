"""The parts of the defence that remember: momentum and suspicion; what each refuses.

Not proven here: what they buy in training; see docs/results.
"""

import pytest
import torch
from product_server import LAYOUT, drawn, recipe_of
from torch.testing import assert_close

from fedtune.adapters.part import Part
from fedtune.recipe import RecipeError, parse_recipe
from fedtune.round.aggregation.choice import geometry_of
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast
from fedtune.round.defence import momentum, suspicion
from fedtune.round.screening.spool import Spool

ANCHOR = drawn(0)
PART = Part("both", LAYOUT)


def spool_of(rows):
    spool = Spool()
    for client, row in rows.items():
        spool.put(client, row)
    return spool


def combine(geometry, rows, round_=1):
    sent = Broadcast(geometry.recipe, LAYOUT, ANCHOR, round_=round_)
    section = geometry.recipe.aggregator
    terms = Terms.of(section, PART, sorted(rows), section.f, round_)
    return geometry.combine(spool_of(rows), sent, terms)


def geometry_for(*given, **sections):
    return geometry_of(recipe_of(*given, **sections), LAYOUT, ANCHOR)


def test_momentum_by_hand():
    # beta 0.5. Client 3 sends 4, then 8: means (1-b)*4 = 2, then 0.5*2 + 0.5*8 = 5; without bias
    # 2 / 0.5 = 4, then 5 / 0.75 = 20/3. Client 7 comes later: its first row stays as it is.
    spool = spool_of({3: torch.full((2,), 4.0)})
    state = momentum.smooth(spool, {}, "both", beta=0.5)
    assert spool.row(3).tolist() == [4, 4]
    spool = spool_of({3: torch.full((2,), 8.0), 7: torch.ones(2)})
    after = momentum.smooth(spool, state, "both", beta=0.5)
    assert_close(spool.row(3), torch.full((2,), 20 / 3))
    assert spool.row(7).tolist() == [1, 1]
    assert int(after["momentum/both/3/rounds"]) == 2
    assert int(state["momentum/both/3/rounds"]) == 1  # not modified
    spool = spool_of({3: torch.full((2,), 6.0)})  # another part has a mean of its own
    momentum.smooth(spool, after, "b", beta=0.5)
    assert spool.row(3).tolist() == [6, 6]


def test_momentum_lets_the_rule_see_a_small_lie_that_goes_on():
    # Seven honest clients: a common step of 1 and noise of 5, anew each round. Three liars send
    # the same but against it. In a single round no one can tell; over forty rounds all can.
    n, d, rounds = 10, LAYOUT.size, 40
    generator = torch.Generator().manual_seed(3)
    common = torch.randn(d, generator=generator) / d**0.5
    aggregator = {"name": "mean", "mixing": ["agreement"], "f": 3, "geometry": "factors"}
    plain = geometry_for(n, aggregator=aggregator)
    averaged = geometry_for(n, aggregator=aggregator, defence={"momentum": 0.97})
    for round_ in range(1, rounds + 1):
        noise = 5 * torch.randn(n, d, generator=generator) / d**0.5
        rows = {k: noise[k] + (common if k < 7 else -common) for k in range(n)}
        seen = combine(plain, dict(rows), round_), combine(averaged, dict(rows), round_)
    by_round, by_history = (torch.tensor(one.weights) for one in seen)
    assert by_round[7:].count_nonzero() >= 2
    assert by_history[7:].tolist() == [0, 0, 0]


def test_suspicion_by_hand():
    # memory 0.5, four clients; weights 1/2, 1/2, 0, 0 are shares 1, 1 (cut), 0, 0 of the equal
    # 1/4. Suspicion 0 -> 0.5 -> 0.75; LIMIT is 0.5: suspended from the third round on.
    clients, weights = [0, 1, 2, 3], torch.tensor([0.5, 0.5, 0.0, 0.0])
    state = torch.zeros(5, dtype=torch.float64)
    state = suspicion.updated(state, clients, weights, memory=0.5)
    assert state.tolist() == [0, 0, 0.5, 0.5, 0]
    assert suspicion.suspended(state, clients, f=2) == []
    state = suspicion.updated(state, clients, weights, memory=0.5)
    assert state.tolist() == [0, 0, 0.75, 0.75, 0]
    assert suspicion.suspended(state, clients, f=2) == [2, 3]
    assert suspicion.suspended(state, clients, f=1) == [2]
    # Forgiven: 0.75 -> 0.375.
    state = suspicion.updated(state, clients, torch.full((4,), 0.25), memory=0.5)
    assert state.tolist() == [0, 0, 0.375, 0.375, 0]


@pytest.mark.parametrize("geometry", ["factors", "product"])
def test_who_lies_in_most_rounds_is_left_out_also_when_it_does_not(geometry):
    n = 9
    recipe = recipe_of(n, aggregator={"name": "multi_krum", "f": 2, "geometry": geometry},
        defence={"suspicion": 0.6},
    )  # fmt: skip
    geometry = geometry_of(recipe, LAYOUT, ANCHOR)
    lately = []
    for round_ in range(1, 13):
        rows = {k: 0.01 * (drawn(1) + 0.3 * drawn(100 * round_ + k)) for k in range(n)}
        lying = round_ <= 6
        if lying:
            rows[4] = 0.3 * drawn(5)
            rows[8] = -0.3 * drawn(5)
        weights = torch.tensor(combine(geometry, rows, round_).weights)
        lately.append([k for k in (4, 8) if weights[k] == 0])
        assert float(weights.sum()) == pytest.approx(1)
    assert lately[5] == [4, 8]
    assert lately[6] == [4, 8]  # the first honest round: suspended
    assert geometry.rule.state["suspicion"].max() < 0.7
    assert geometry.rule.state["suspicion"].shape == (n,)


def test_suspicion_does_not_change_a_round_without_history():
    rows = {k: 0.01 * drawn(k) for k in range(9)}
    aggregator = {"name": "caf", "f": 2, "geometry": "factors"}
    alone = combine(geometry_for(9, aggregator=aggregator), rows)
    watched = combine(geometry_for(9, aggregator=aggregator, defence={"suspicion": 0.9}), rows)
    assert torch.equal(alone.change, watched.change)
    assert alone.weights == watched.weights


@pytest.mark.parametrize("geometry", ["factors", "product"])
@pytest.mark.parametrize("name", ["mean", "caf", "geometric_median"])
def test_who_is_suspect_weighs_nothing(name, geometry):
    recipe = recipe_of(10, aggregator={"name": name, "f": 2, "geometry": geometry},
                       defence={"suspicion": 0.9})  # fmt: skip
    geometry = geometry_of(recipe, LAYOUT, ANCHOR)
    geometry.rule.state = {"suspicion": torch.tensor([0, 0, 0, 1.0, 0, 0, 0, 0, 0, 0.8]).double()}
    rows = {k: 0.01 * drawn(k + 1) for k in (0, 2, 3, 5, 6, 8, 9)}
    combined = combine(geometry, rows)
    weights = dict(zip(sorted(rows), combined.weights, strict=True))
    assert [k for k, weight in weights.items() if weight == 0] == [3, 9]
    assert sum(weights.values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"defence": {"server_data": True}, "aggregator": {"name": "mean", "f": 1}},
         "defence.server_data: needs data.server_rows: got 0"),
        ({"defence": {"suspicion": 0.5}, "aggregator": {"name": "caf", "f": 0}},
         "defence.suspicion: leaves out up to f clients: got f=0"),
        ({"defence": {"suspicion": 0.5}, "aggregator": {"name": "trimmed_mean", "f": 1}},
         "defence.suspicion: needs a rule that weighs clients: got trimmed_mean"),
        ({"defence": {"suspicion": 0.5}, "aggregator": {"name": "foolsgold", "f": 1}},
         "defence.suspicion: cannot go with foolsgold"),
        ({"defence": {"momentum": 0.5},
          "aggregator": {"name": "caf", "f": 1, "geometry": "product"}},
         "defence.momentum: averages rows, and needs aggregator.combination: factors"),
        ({"defence": {"momentum": 1.0}}, "momentum"),
        ({"defence": {"suspicious": 0.5}}, "suspicion"),
        ({"defence": {"suspicion": 0.5}, "aggregator": {"name": "krum", "f": 1}},
         "defence.suspicion: needs a rule that weighs most clients in every round: got krum"),
        ({"defence": {"suspicion": 0.5}, "aggregator": {
            "name": "median", "f": 1, "geometry": "product", "combination": "dense"}},
         "defence.suspicion: cannot go with combination: dense"),
    ],
)  # fmt: skip
def test_refusals(sections, message):
    with pytest.raises(RecipeError, match=message.replace(".", r"\.")):
        parse_recipe(sections)

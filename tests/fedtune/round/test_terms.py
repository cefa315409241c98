"""What a round holds its rule to, by hand: who may be left out, and what is skipped."""

from dataclasses import replace

import pytest
import torch
from product_server import LAYOUT, drawn, recipe_of

from fedtune.adapters.part import Part
from fedtune.round.aggregation.choice import geometry_of
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.spool import Spool

ANCHOR = drawn(0)
BOTH = Part("both", LAYOUT)


def terms_of(aggregator, clients, f):
    section = recipe_of(10, aggregator=aggregator).aggregator
    return Terms.of(section, BOTH, clients, f, 1)


def test_how_many_may_be_left_out_is_what_the_rule_can_bear():
    # capped_spectral needs 2f + 1 = 7 at f = 3: of nine two may go, of seven none.
    rule = {"name": "capped_spectral", "f": 3}
    terms = terms_of(rule, [0, 1, 2, 4, 5, 6, 7, 8, 9], 3)
    assert terms.left_out == ()
    assert terms.spare == 2
    assert replace(terms, left_out=[8, 1]).places == [7, 1]
    assert terms_of(rule, range(7), 3).spare == 0
    assert terms_of(rule, range(7), 2).spare == 2  # one proven faulty: f = 2 needs 5
    assert terms_of({"name": "mean", "f": 3}, range(4), 3).spare == 3  # the mean needs one row


def test_a_mixing_that_cannot_run_is_not_in_the_section():
    # agreement and krum need 2f + 1 = 7 and 2f + 3 = 9, bucketing leaves 5 of ten.
    rule = {"name": "krum", "f": 1, "mixing": ["agreement", "bucketing"]}
    assert terms_of(rule, range(10), 1).section.mixing_names == ["agreement", "bucketing"]
    assert terms_of(rule, range(8), 1).section.mixing_names == ["agreement"]


def combine(recipe, spool, *, f=None, state=None):
    sent = Broadcast(recipe, LAYOUT, ANCHOR, round_=1)
    geometry = geometry_of(recipe, LAYOUT, ANCHOR)
    geometry.rule.load_state_dict(state or {})
    section = recipe.aggregator
    terms = Terms.of(section, BOTH, spool.clients, section.f if f is None else f, 1)
    return geometry.combine(spool, sent, terms)


def combined(recipe, clients, **given):
    spool = Spool()
    for k in clients:
        spool.put(k, 0.1 * drawn(k + 1))
    made = combine(recipe, spool, **given)
    return dict(zip(clients, made.weights, strict=True))


@pytest.mark.parametrize(("replies", "gone"), [(10, [1, 3, 6]), (9, [1, 6]), (8, [1]), (7, [])])
def test_suspicion_leaves_out_no_more_than_the_rule_can_bear(replies, gone):
    # Clients 1, 6 and 3 are suspect, in this order, and caf at f = 3 needs 7. What stays is judged
    # as though the others had never come.
    aggregator = {"name": "caf", "f": 3}
    suspicion = torch.zeros(10, dtype=torch.float64)
    suspicion[torch.tensor([1, 3, 6])] = torch.tensor([0.9, 0.7, 0.8], dtype=torch.float64)
    recipe = recipe_of(10, aggregator=aggregator, defence={"suspicion": 0.9})
    weights = combined(recipe, range(replies), state={"suspicion": suspicion})
    plain = recipe_of(10, aggregator=aggregator)
    alone = combined(plain, [k for k in range(replies) if k not in gone])
    assert weights == pytest.approx({**alone, **dict.fromkeys(gone, 0)})


def test_f_of_a_round_is_what_the_rule_is_given():
    # multi_krum averages the n - f closest: of eight, six at f = 2 and all at 0.
    recipe = recipe_of(8, aggregator={"name": "multi_krum", "f": 2})
    picked = [sum(w > 0 for w in combined(recipe, range(8), f=f).values()) for f in (None, 1, 0)]
    assert picked == [6, 7, 8]


def test_the_record_has_the_share_that_a_cut_update_steers_with():
    # Nine alike in length and one a million times as long: it is cut to the next longest, and its
    # coefficient is a millionth of a share. What it steers with is a share like the others'.
    recipe = recipe_of(10, aggregator={"name": "capped_spectral", "f": 3, "geometry": "factors"})
    spool = Spool()
    for k in range(10):
        spool.put(k, drawn(k + 1) * (1e6 if k == 9 else 1.0))
    made = combine(recipe, spool)
    assert sum(made.weights) == pytest.approx(1)
    assert 0.05 < made.weights[9] < 1 / 7 + 1e-12
    assert made.facts_of(9)["dropped"] is False


@pytest.mark.parametrize("geometry", ["factors", "product"])
def test_an_agreement_that_would_leave_too_few_is_said_to_be_skipped(geometry):
    # krum at f = 3 needs 2f + 3 = 9 rows. Of ten, one that points against the others may go; with
    # two eight would be left, and nobody goes.
    for against, skipped in (((9,), ()), ((8, 9), ("agreement",))):
        rule = {"name": "krum", "f": 3, "mixing": ["agreement"], "geometry": geometry}
        recipe = recipe_of(10, aggregator=rule)
        spool = Spool()
        for k in range(10):
            spool.put(k, 0.01 * (drawn(50) + 0.1 * drawn(k + 1)) * (-1 if k in against else 1))
        assert combine(recipe, spool).skipped == skipped

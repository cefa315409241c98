"""What attackers are told of the rule is what the server then does: weights, step, refusals.

Not proven here: how near a combination's product is to the combination of products; the search
tries its winner on exact ones.
"""

from dataclasses import replace

import pytest
import torch
from product_server import LAYOUT, RANK, drawn
from test_attacks_in_a_run import ANCHOR, learnt
from toy_federation import toy_app, toy_server

import attacks
from fedtune.recipe import parse_recipe
from fedtune.simulation.adversary import byzantine_clients
from fedtune.simulation.span import span_of
from fedtune.transport.local import LocalTransport

ATTACKERS = 3


def recipe_of(rule, *, geometry="factors", mixing=(), f=3, **sections):
    return parse_recipe(
        {
            "lora": {"r": RANK, "lora_alpha": 6},
            "federation": {"num_clients": 10, "num_rounds": 3},
            "aggregator": {"name": rule, "f": f, "mixing": list(mixing), "geometry": geometry},
            "attack": {"name": "searched", "num_attackers": ATTACKERS},
            **sections,
        }
    )


def rounds(recipe, coefficients, *, count=3, monkeypatch):
    """Run rounds in which attackers send these coefficients; the server, and what was told.

    Coefficients are of the honest updates and of one direction, (ATTACKERS, 8).
    """
    told = {}

    def send(honest, *, num_attackers, scene, **_):
        aim = drawn(77, scale=0.05)
        span = scene.span(aim[None])
        told["weigh"] = span.weigh(coefficients)
        told["confirm"] = span.confirm(coefficients)
        told["span"] = span
        told["points"] = torch.cat([honest.double(), aim[None].double()])
        return (coefficients @ told["points"]).to(honest.dtype)

    sent = replace(attacks.ATTACKS["searched"], function=send)
    monkeypatch.setitem(attacks.ATTACKS, "searched", sent)
    transport = LocalTransport(toy_app(learnt), 10)
    server = toy_server(recipe, transport, layout=LAYOUT, anchor=ANCHOR)
    for round_ in range(1, count + 1):
        before = server.outer.anchor
        assert server.run_round(transport, round_), server.record.refused
        told["step"] = server.outer.anchor - before
    return server, told


def weights_of(server):
    """Honest weights in the order of clients, and the attackers' together."""
    liars = byzantine_clients(server.recipe)
    weights = {int(k): facts.weight for k, facts in server.record.clients.items()}
    honest = [weights[k] for k in sorted(weights) if k not in liars]
    return torch.tensor(honest), torch.tensor([weights[k] for k in sorted(liars)])


def expected(server, coefficients, width=8):
    """The aggregate over honest updates and direction, by the weights in the record."""
    honest, lying = weights_of(server)
    row = lying.double() @ coefficients
    row[:7] += honest.double()
    return row[:width]


LIES = torch.tensor(
    [[0.3, 0.1, 0.1, 0.2, -0.1, 0.1, 0.1, 0.6],
     [0.2, 0.1, 0.1, 0.2, -0.1, 0.2, 0.1, 0.5],
     [0.1, 0.1, 0.1, 0.2, -0.1, 0.1, 0.3, 0.4]], dtype=torch.float64
)  # fmt: skip
# An attacker that copies an honest client or sends the direction: products are the points' own.
COPIES = torch.zeros(ATTACKERS, 8, dtype=torch.float64)
COPIES[0, 2] = COPIES[1, 4] = COPIES[2, 7] = 1.0

PLANS = [("caf", ["agreement"]), ("caf", []), ("geometric_median", ["nnm"]), ("multi_krum", [])]


@pytest.mark.parametrize(("rule", "mixing"), PLANS)
def test_the_weights_in_factors_are_the_server_s(rule, mixing, monkeypatch):
    server, told = rounds(recipe_of(rule, mixing=mixing), LIES, monkeypatch=monkeypatch)
    assert told["span"].quick
    for way in ("weigh", "confirm"):
        # rows travel in float32: their distances carry its rounding
        assert torch.allclose(told[way][:8], expected(server, LIES), atol=1e-5), way
    # the anchor's step is that combination of rows, in float32
    made = told["weigh"][:8] @ told["points"]
    assert torch.allclose(told["step"].double(), made, atol=1e-5)


@pytest.mark.parametrize(("rule", "mixing"), PLANS)
def test_the_weights_in_products_are_the_server_s(rule, mixing, monkeypatch):
    recipe = recipe_of(rule, mixing=mixing, geometry="product")
    server, told = rounds(recipe, COPIES, monkeypatch=monkeypatch)
    assert torch.allclose(told["weigh"][:8], expected(server, COPIES), atol=1e-5)
    assert torch.allclose(told["confirm"][:8], expected(server, COPIES), atol=1e-9)
    server, told = rounds(recipe, LIES, monkeypatch=monkeypatch)
    assert torch.allclose(told["confirm"][:8], expected(server, LIES), atol=1e-9)


@pytest.mark.parametrize(
    ("geometry", "defence"),
    [
        ("factors", {"momentum": 0.5}),
        ("factors", {"suspicion": 0.7}),
        ("product", {"suspicion": 0.7}),
    ],
)
def test_what_the_server_remembers_is_heeded(geometry, defence, monkeypatch):
    recipe = recipe_of("caf", mixing=["agreement"], geometry=geometry, defence=defence)
    server, told = rounds(recipe, COPIES, monkeypatch=monkeypatch)
    remembered = {name: tensor.clone() for name, tensor in server.geometry.rule.state.items()}
    span = told["span"]
    honest, lying = weights_of(server)
    clients = sorted(map(int, server.record.clients))
    liars = byzantine_clients(recipe)
    by_client = torch.zeros(10, dtype=torch.float64)
    by_client[[c for c in clients if c not in liars]] = honest.double()
    by_client[sorted(liars)] = lying.double()
    assert torch.allclose(told["weigh"], span.mix(COPIES).T @ by_client, atol=1e-5)
    assert torch.allclose(told["confirm"], span.mix(COPIES).T @ by_client, atol=1e-9)
    if "momentum" in defence:  # two rounds before: the past has (b^2 + b) of (1 + b + b^2)
        assert span.fixed.shape[1] == 7 + 1 + 10
        assert float(span.free[sorted(liars)[0]].sum()) == pytest.approx(1 / 1.75)
    assert all(torch.equal(remembered[k], server.geometry.rule.state[k]) for k in remembered)


def test_a_centre_that_the_rule_remembers_is_a_point(monkeypatch):
    for geometry in ("factors", "product"):
        recipe = recipe_of("centered_clipping", geometry=geometry)
        server, told = rounds(recipe, COPIES, monkeypatch=monkeypatch)
        assert len(told["span"].gram) == 9
        honest, lying = weights_of(server)
        # what the clients have not, the centre has
        assert float(told["weigh"][8]) == pytest.approx(
            1 - float(honest.sum() + lying.sum()), abs=1e-5
        )
        assert torch.allclose(told["weigh"], told["confirm"], atol=1e-5)


@pytest.mark.parametrize(
    ("rule", "mixing", "geometry"),
    [("trimmed_mean", [], "factors"), ("trimmed_mean", ["nnm"], "product")],
)
def test_a_rule_on_columns_is_tried_whole(rule, mixing, geometry, monkeypatch):
    recipe = recipe_of(rule, mixing=mixing, geometry=geometry)
    _, told = rounds(recipe, LIES, count=1, monkeypatch=monkeypatch)
    span = told["span"]
    assert not span.quick
    assert torch.equal(told["weigh"], told["confirm"])
    if geometry == "product":
        return
    # The nearest combination: what is left of the step is orthogonal to every point.
    rest = told["step"].double() - told["weigh"][:8] @ told["points"]
    assert (told["points"] @ rest).abs().max() < 1e-4 * told["points"].square().sum(1).max()


@pytest.mark.parametrize("geometry", ["factors", "product"])
def test_a_lie_that_is_refused_moves_nothing_away(geometry, monkeypatch):
    far = LIES * 1e30
    recipe = recipe_of("caf", geometry=geometry)
    liars = byzantine_clients(recipe)
    seen = {}
    original = span_of

    def watched(box, honest, attackers, directions, cut):
        span = original(box, honest, attackers, directions, cut)
        seen["confirm"] = span.confirm(far if geometry == "product" else far * 1e30)
        return span

    monkeypatch.setattr("fedtune.simulation.span.span_of", watched)
    rounds(recipe, LIES, count=1, monkeypatch=monkeypatch)
    # seven honest clients are left, of whom CAF at f = 3 makes what it makes: none of it the lie's
    assert float(seen["confirm"][7]) == 0.0
    assert float(seen["confirm"][:7].sum()) == pytest.approx(1.0)
    assert len(liars) == ATTACKERS

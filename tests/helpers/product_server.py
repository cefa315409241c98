"""Rows of two made-up LoRA modules and a head, and a server's part of a round on them."""

import torch

from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.recipe import parse_recipe
from fedtune.round.aggregation.choice import geometry_of
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast
from fedtune.round.hooks import NoHooks, RoundView
from fedtune.round.screening.intake import Intake
from fedtune.round.screening.spool import Spool

RANK = 3
MODULES = {"base_model.model.x": (7, 5), "base_model.model.y": (4, 9)}  # d_out, d_in
NAMED = [
    (f"{name}.lora_{side}.weight", (RANK, d_in) if side == "A" else (d_out, RANK))
    for name, (d_out, d_in) in MODULES.items()
    for side in "AB"
]
LAYOUT = Layout(tuple(sorted([*NAMED, ("base_model.model.head.weight", (2, 3))])))


def recipe_of(n, *, aggregator, outer=None, lora=None, **sections):
    return parse_recipe(
        {
            "lora": {"r": RANK, "lora_alpha": 6, **(lora or {})},
            "federation": {"num_clients": n},
            "aggregator": {"geometry": "product", **aggregator},
            "outer": outer or {"name": "fedavg"},
            **sections,
        }
    )


def drawn(seed, layout=LAYOUT, scale=1.0):
    return scale * torch.randn(layout.size, generator=torch.Generator().manual_seed(seed))


def products(row, layout=LAYOUT, scale=2.0):
    """s BA of each module, dense, and the head; float64."""
    tensors = layout.unflatten(row.double())
    found = {
        name: scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
        for name in MODULES
    }
    return found | {"head": tensors["base_model.model.head.weight"]}


def moved(anchor, delta, layout=LAYOUT):
    """s (B_i A_i - B A) of each module."""
    after, before = products(anchor + delta, layout), products(anchor, layout)
    return {name: after[name] - before[name] for name in after}


def turned(anchor, delta, s, layout=LAYOUT):
    """The same model in the gauge (B S, S^-1 A), as a delta."""
    local = layout.unflatten((anchor + delta).double())
    for name in MODULES:
        local[f"{name}.lora_B.weight"] = local[f"{name}.lora_B.weight"] @ s
        local[f"{name}.lora_A.weight"] = torch.linalg.solve(s, local[f"{name}.lora_A.weight"])
    return (layout.flatten({k: v.float() for k, v in local.items()}).double() - anchor).float()


class Round:
    """A server's part of one round and the next ones, on rows made by hand."""

    def __init__(self, recipe, anchor, layout=LAYOUT):
        self.recipe, self.layout = recipe, layout
        self.geometry = geometry_of(recipe, layout, anchor)
        self.outer = self.geometry.outer
        self.refused = {}

    def run(self, rows, round_=1):
        self.sent = Broadcast(self.recipe, self.layout, self.outer.anchor, round_=round_)
        part = Part.of_round(self.layout, self.recipe.lora.train, round_)
        intake = Intake(self.recipe, Spool(), ("", ""), NoHooks(), self.geometry.align)
        for client, row in enumerate(rows):
            intake.spool.put(client, row)
        view = RoundView(self.recipe, self.geometry, self.sent, part, intake.spool, round_, 0)
        self.refused, _ = intake.settle(range(len(rows)), view)
        section = self.recipe.aggregator
        terms = Terms.of(section, part, intake.spool.clients, section.f, round_)
        combined = self.geometry.combine(intake.spool, self.sent, terms)
        self.facts = self.geometry.step(combined.change, part)
        self.geometry.renew(self.sent)
        return combined


def close(got, want, tolerance=1e-5):
    scale = max(float(value.abs().max()) for value in want.values())
    for name in want:
        assert (got[name] - want[name]).abs().max() <= tolerance * scale, name


def b_only(rows):
    """The same deltas with A unmoved."""
    kept = []
    for row in rows:
        tensors = LAYOUT.unflatten(row.clone())
        for name in MODULES:
            tensors[f"{name}.lora_A.weight"].zero_()
        kept.append(LAYOUT.flatten(tensors))
    return kept

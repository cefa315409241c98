"""The honest updates of level vectors: drawn by formula, or read from a record."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.attack_bench.schema import Drawn
from fedtune.recipe import Recipe
from fedtune.seeds import derive
from fedtune.simulation.precomputed import RoundUpdates

Rows = tuple[Layout, list[RoundUpdates]]


def draw_rounds(drawn: Drawn, recipe: Recipe) -> Rows:
    """Honest updates by the formula of ``Drawn``, on modules of LoRA's rank r.

    The anchor of a round is where the mean of all rows has led; B begins at zero, as LoRA's does.

    Raises:
        ValueError: If r is more than a module can hold.
    """
    r, seed, n = recipe.lora.r, recipe.federation.seed, recipe.federation.num_clients
    if r > min(drawn.d_in, drawn.d_out):
        raise ValueError(
            f"rounds.drawn: d_in and d_out need to be at least lora.r: got {drawn.d_in} and "
            f"{drawn.d_out} with r={r}"
        )
    shapes = {}
    for k in range(drawn.modules):
        shapes[f"base_model.model.layers.{k}.proj.lora_A.weight"] = (r, drawn.d_in)
        shapes[f"base_model.model.layers.{k}.proj.lora_B.weight"] = (drawn.d_out, r)
    layout = Layout(tuple(sorted(shapes.items())))
    anchor = torch.zeros(layout.size)
    draw = torch.Generator().manual_seed(derive(seed, "drawn", "anchor"))
    for name, tensor in layout.unflatten(anchor).items():
        if "lora_A" in name:
            tensor.copy_(torch.randn(tensor.shape, generator=draw) / drawn.d_in**0.5)
    size = drawn.step * float(anchor.norm())
    common = _direction(layout.size, seed, "common")
    own = torch.stack([_direction(layout.size, seed, "offset", i) for i in range(n)])
    given = []
    for round_ in range(1, drawn.num_rounds + 1):
        noise = torch.stack([_direction(layout.size, seed, "noise", i, round_) for i in range(n)])
        rows = size * (drawn.common * common + drawn.offset * own + drawn.noise * noise)
        given.append(RoundUpdates(anchor, rows.to(torch.float32)))
        anchor = anchor + given[-1].rows.mean(dim=0)
    return layout, given


@lru_cache(maxsize=2)
def load_rounds(path: Path) -> Rows:
    """Read a record; the last ones stay in memory."""
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        shapes = json.loads(file.metadata()["layout"])
    layout = Layout(tuple((name, tuple(shape)) for name, shape in shapes))
    pairs = zip(tensors["anchors"], tensors["rows"], strict=True)
    return layout, [RoundUpdates(anchor.clone(), rows.clone()) for anchor, rows in pairs]


def _direction(size: int, seed: int, *purpose: str | int) -> Tensor:
    draw = torch.Generator().manual_seed(derive(seed, "drawn", *purpose))
    vector = torch.randn(size, generator=draw, dtype=torch.float64)
    unit: Tensor = vector / vector.norm()
    return unit

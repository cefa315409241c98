"""What the server does in a round at a model's shapes: products beside factors, part by part.

    python benchmarks/server_step.py                    # the shapes of SmolLM2-135M
    python benchmarks/server_step.py --model qwen3-0.6b
    python benchmarks/server_step.py --profile          # where products spend their time

Rows are random: A as PEFT draws it, B as after some rounds, a client's moves a tenth of each. The
server's parts run in turn with those of the other geometry: bringing each row to the anchor's gauge
(products alone), combining by the default rule, and the outer step. CPU seconds on one thread.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import _path  # noqa: F401  before anything of ours
import torch

from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.recipe import Recipe, parse_recipe
from fedtune.round.aggregation.choice import geometry_of
from fedtune.round.aggregation.terms import Terms
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.spool import Spool


@dataclass(frozen=True)
class Shape:
    """A decoder's linear layers: width, width of keys and values, of the MLP, and layers."""

    hidden: int
    heads: int
    keys: int
    mlp: int
    layers: int

    def modules(self) -> Iterator[tuple[str, int, int]]:
        """Name, d_out and d_in of each adapted module."""
        for layer in range(self.layers):
            for name, d_out, d_in in (
                ("self_attn.q_proj", self.heads, self.hidden),
                ("self_attn.k_proj", self.keys, self.hidden),
                ("self_attn.v_proj", self.keys, self.hidden),
                ("self_attn.o_proj", self.hidden, self.heads),
                ("mlp.gate_proj", self.mlp, self.hidden),
                ("mlp.up_proj", self.mlp, self.hidden),
                ("mlp.down_proj", self.hidden, self.mlp),
            ):
                yield f"base_model.model.model.layers.{layer}.{name}", d_out, d_in


SHAPES = {
    "smollm2-135m": Shape(576, 576, 192, 1536, 30),
    "qwen3-0.6b": Shape(1024, 2048, 1024, 3072, 28),
    "qwen3-8b": Shape(4096, 4096, 1024, 12288, 36),
}
GEOMETRIES = ("factors", "product")


def layout_of(shape: Shape, rank: int) -> Layout:
    """The adapter's tensors as PEFT names them."""
    tensors = []
    for name, d_out, d_in in shape.modules():
        tensors += [
            (f"{name}.lora_A.weight", (rank, d_in)),
            (f"{name}.lora_B.weight", (d_out, rank)),
        ]
    return Layout(tuple(sorted(tensors)))


def drawn(layout: Layout, size: float, seed: int) -> torch.Tensor:
    """A row with entries of A near 1 / sqrt(d_in) and of B near a tenth of that, times a size."""
    draw = torch.Generator().manual_seed(seed)
    parts = []
    for name, shape in layout.shapes:
        scale = size * (shape[1] ** -0.5 if "lora_A" in name else 0.1 * shape[0] ** -0.5)
        parts.append(scale * torch.randn(shape, generator=draw).flatten())
    return torch.cat(parts)


def rounds(recipe: Recipe, layout: Layout, num_rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each part of the server's work, by round."""
    anchor = drawn(layout, 1.0, 0)
    geometry = geometry_of(recipe, layout, anchor)
    part, took = Part("both", layout), defaultdict(list)
    clients = range(recipe.federation.num_clients)
    spool = Spool()
    for round_ in range(1, num_rounds + 1):
        sent = Broadcast(recipe, layout, geometry.anchor, round_=round_)
        for client in clients:
            row = drawn(layout, 0.1, 1 + client)  # the same each round: momentum has a direction
            started = time.process_time()
            aligned = geometry.align(row, sent.to(client))
            took["gauge"].append(time.process_time() - started)
            assert not isinstance(aligned, str), aligned
            spool.put(client, aligned)
        terms = Terms.of(recipe.aggregator, part, list(clients), recipe.aggregator.f, round_)
        started = time.process_time()
        combined = geometry.combine(spool, sent, terms)
        took["combine"].append(time.process_time() - started)
        started = time.process_time()
        geometry.step(combined.change, part)
        took["step"].append(time.process_time() - started)
    took["gauge"] = [sum(took["gauge"]) / num_rounds]
    return took


def recipe_of(geometry: str, rank: int, num_clients: int) -> Recipe:
    """The default rule and outer optimizer in a geometry."""
    return parse_recipe(
        {
            "lora": {"r": rank, "lora_alpha": 2 * rank},
            "federation": {"num_clients": num_clients},
            "aggregator": {"geometry": geometry, "f": max(1, num_clients * 3 // 10)},
        }
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SHAPES), default="smollm2-135m")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--clients", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    layout = layout_of(SHAPES[chosen.model], chosen.rank)
    found: dict[str, dict[str, float]] = {}
    for geometry in GEOMETRIES:
        recipe = recipe_of(geometry, chosen.rank, chosen.clients)
        profile = cProfile.Profile()
        if chosen.profile and geometry == "product":
            profile.enable()
        took = rounds(recipe, layout, chosen.rounds)
        profile.disable()
        found[geometry] = {part: statistics.median(times) for part, times in took.items()}
        if chosen.profile and geometry == "product":
            pstats.Stats(profile).sort_stats("tottime").print_stats(18)
    print(f"{chosen.model}, rank {chosen.rank}: {layout.size:,} numbers a row, "
          f"{chosen.clients} clients; CPU s a round, one thread")  # fmt: skip
    print("| geometry | gauge of all rows | combine | step | all | x factors |")
    print("|---" * 6 + "|")
    base = sum(found["factors"].values())
    for geometry, parts in found.items():
        total = sum(parts.values())
        cells = " | ".join(f"{parts[name]:.2f}" for name in ("gauge", "combine", "step"))
        print(f"| {geometry} | {cells} | {total:.2f} | {total / base:.1f} |")
    print(f"\n{platform.machine()}, torch {torch.__version__}.")


if __name__ == "__main__":
    main()

"""An attack on updates, tried on made-up rows: do its options and counts go together?"""

from __future__ import annotations

import torch
from torch import Tensor

import attacks
from aggregators import Gram
from aggregators.engine.gram import gram
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.recipe import Attack, Recipe
from fedtune.round.aggregation.factors import describe
from fedtune.simulation.span import ServerSpan
from fedtune.training.adapted import adapted_modules

_FEW = 3  # modules, where no option names one
_PLAIN = 1000  # columns, so that a fraction of all columns is some column: attacks allow 0.001
_STEP, _COMMON = 1e-4, 1e-3


def rehearse(recipe: Recipe) -> str | None:
    """Try the recipe's attack with every count of attackers that a sample of the clients can hold.

    The rows are those of an adapter of the recipe's rank and of the factors that it trains, as LoRA
    begins it (B is zero). They are drawn so that no attack lacks what it looks for in the values,
    and only options and counts are judged: steps of 1e-4 of A, since what an attack can hide
    there is first lost to products of steps, and honest rows whose mean is 1e-3 of their spread,
    since a lie hides in the spread and stands against the mean.

    Args:
        recipe: With an attack of level "update".

    Returns:
        Why the attack refuses, and with how many attackers; None where it does not, or where only
        loading the model can tell.
    """
    attack = recipe.attack
    assert attack is not None
    try:
        layout = _layout(_count_modules(recipe, attack), recipe.lora.r)
    except (OSError, ValueError):
        return None  # the checks of model and adapter say what is wrong, or loading will
    federation = recipe.federation
    sample = federation.sample_size
    fewest = max(1, sample - (federation.num_clients - attack.num_attackers))
    for attackers in range(fewest, min(attack.num_attackers, sample) + 1):
        for round_ in (1, 2) if recipe.lora.train == "alternate" else (1,):
            part = Part.of_round(layout, recipe.lora.train, round_)
            try:
                _craft(recipe, attack, part, attackers=attackers)
            except ValueError as error:
                return f"with {attackers} attackers of {sample}: {error}"
    return None


def _count_modules(recipe: Recipe, attack: Attack) -> int:
    """As many as the model has, where the attack names one of them by its place."""
    return _FEW if attack.options.get("module") is None else len(adapted_modules(recipe))


def _layout(num_modules: int, rank: int) -> Layout:
    """Modules of three sizes, none narrower than the rank, and plain columns."""
    shapes: list[tuple[str, tuple[int, ...]]] = [("head.weight", (_PLAIN,))]
    for k in range(num_modules):
        more = 4 + k % 3
        shapes.append((f"module{k:06d}.lora_A.weight", (rank, rank + more)))
        shapes.append((f"module{k:06d}.lora_B.weight", (rank + 2 * more, rank)))
    return Layout(tuple(sorted(shapes)))


def _craft(recipe: Recipe, attack: Attack, part: Part, *, attackers: int) -> None:
    """Craft as the adversary of a run does (adversary.py).

    Raises:
        ValueError: If the attack refuses.
    """
    known, sample = attacks.ATTACKS[attack.name], recipe.federation.sample_size
    view = attack.knowledge or known.knowledge[-1]
    if view == "own":
        attackers = 1  # each by itself
    options = dict(attack.options)
    if "num_clients" in known.options:
        options.setdefault("num_clients", sample)
    draw = torch.Generator().manual_seed(0)
    anchor = _anchor(part.whole, draw)
    own = _rows(attackers, part.layout.size, draw)
    honest = _rows(sample - attackers, part.layout.size, draw)
    ranks = tuple(sorted(set(recipe.lora.client_ranks or ())))
    searched = view == "all" and not recipe.aggregator.takes_reference
    scene = attacks.Scene(
        anchor=part.take(anchor),
        factors=describe(part, anchor, recipe.lora),
        defence=(lambda rows: float(rows.norm())) if searched else None,
        span=(lambda aims: _span(honest, aims, attackers)) if searched and len(honest) else None,
        search=attacks.Search(evaluations=4, restarts=1) if attack.search else None,
        loss=lambda row: float(row.double().norm()),
        fewer=ranks if len(ranks) > 1 else (),
    )
    attacks.craft(
        honest if view == "all" and len(honest) else own,
        attack.name,
        num_attackers=attackers,
        generator=draw,
        own=own,
        scene=scene,
        **options,
    )


def _span(honest: Tensor, aims: Tensor, attackers: int) -> attacks.Span:
    """The plain mean, in the place of the rule: made-up rows tell nothing of that."""
    clients, points = len(honest) + attackers, gram(torch.cat([honest, aims.to(honest.dtype)]))
    fixed = torch.zeros(clients, points.num_clients, dtype=torch.float64)
    fixed[: len(honest), : len(honest)] = torch.eye(len(honest), dtype=torch.float64)
    free = torch.zeros(clients, attackers, dtype=torch.float64)
    free[len(honest) :] = torch.eye(attackers, dtype=torch.float64)

    def judge(_: Gram) -> Tensor:
        return torch.full((clients,), 1 / clients, dtype=torch.float64)

    def send(coefficients: Tensor) -> Tensor:
        return span.mix(coefficients).T @ judge(points)

    span = ServerSpan(points, fixed, free, points.num_clients, len(honest), judge, send)
    return span


def _anchor(whole: Layout, draw: torch.Generator) -> Tensor:
    """A drawn, B and the plain columns zero, shape (d,)."""
    row = torch.zeros(whole.size)
    for name, values in whole.unflatten(row).items():
        if "lora_A" in name:
            values.normal_(std=values.shape[1] ** -0.5, generator=draw)
    return row


def _rows(count: int, d: int, draw: torch.Generator) -> Tensor:
    """Updates that differ far more than they agree, shape (count, d)."""
    rows, common = torch.randn(count, d, generator=draw), torch.randn(d, generator=draw)
    if count > 1:
        rows -= rows.mean(dim=0)
    return _STEP * (rows + _COMMON * common)

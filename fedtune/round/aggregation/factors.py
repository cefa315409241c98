"""An adapter's row, described for product space: which columns are which module's A and B."""

from __future__ import annotations

from math import prod

from torch import Tensor

from aggregators.geometry import Factors, Module
from fedtune.adapters.part import Part
from fedtune.adapters.ranks import side_of
from fedtune.recipe import Lora


def describe(part: Part, anchor: Tensor | None, lora: Lora) -> Factors:
    """Describe the rows of a round's part.

    Args:
        part: What the round trains; its whole layout may be of a client's own rank.
        anchor: The whole row that the client received: a factor that is not trained stands there.
            None where both are trained.
        lora: The recipe's section, for the scale. It is the same at every rank.
    """
    columns, plain, ranks = {}, [], {}
    start = 0
    for name, shape in part.layout.shapes:
        stop = start + prod(shape)
        found = side_of(name)
        if found is None:
            plain.append((start, stop))
        else:
            columns[found] = (start, stop)
        start = stop
    tensors = {} if anchor is None else part.whole.unflatten(anchor)
    fixed: dict[tuple[str, str], Tensor] = {}
    for name, shape in part.whole.shapes:
        if (found := side_of(name)) is None:
            continue
        module, side = found
        ranks[module] = shape[0] if side == "a" else shape[1]
        if found not in columns:
            fixed[found] = tensors[name].flatten(1)
    modules = tuple(
        Module(
            a=columns.get((module, "a")),
            b=columns.get((module, "b")),
            rank=rank,
            scale=lora.scale_of(module),
            fixed_a=fixed.get((module, "a")),
            fixed_b=fixed.get((module, "b")),
        )
        for module, rank in sorted(ranks.items())
    )
    return Factors(modules, tuple(plain), part.layout.size)

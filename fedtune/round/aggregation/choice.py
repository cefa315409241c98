"""The choice of a run's geometry: the one place where it depends on the recipe."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.recipe import Recipe
from fedtune.round.aggregation.factor_geometry import AlignedGeometry, FactorGeometry
from fedtune.round.aggregation.geometry import Geometry
from fedtune.round.aggregation.product_geometry import DenseGeometry, ProductGeometry


def geometry_of(recipe: Recipe, layout: Layout, anchor: Tensor) -> Geometry[Any]:
    """The geometry of a run, its optimizer at an anchor and its rule without memory.

    Args:
        recipe: The run's.
        layout: Of the whole adapter.
        anchor: Its row, shape (d,).
    """
    section = recipe.aggregator
    if section.geometry == "factors":
        return FactorGeometry(recipe, anchor)
    if section.combined_by == "factors" or recipe.lora.train != "both":
        return AlignedGeometry(recipe, anchor)
    if section.combined_by == "dense":
        return DenseGeometry(recipe, layout, anchor)
    return ProductGeometry(recipe, layout, anchor)

"""A recipe: YAML in, one frozen, typed, bounded object out."""

from fedtune.recipe.aggregator import Aggregator
from fedtune.recipe.attack import Attack
from fedtune.recipe.data import Data, Partition, Source
from fedtune.recipe.errors import RecipeError
from fedtune.recipe.evaluation import Evaluation
from fedtune.recipe.lora import Lora
from fedtune.recipe.outer import Outer
from fedtune.recipe.schema import (
    Checkpoint,
    Federation,
    Model,
    Recipe,
)
from fedtune.recipe.source import find_recipe, load_recipe, parse_recipe, shipped_recipes, to_yaml

__all__ = [
    "Aggregator",
    "Attack",
    "Checkpoint",
    "Data",
    "Evaluation",
    "Federation",
    "Lora",
    "Model",
    "Outer",
    "Partition",
    "Recipe",
    "RecipeError",
    "Source",
    "find_recipe",
    "load_recipe",
    "parse_recipe",
    "shipped_recipes",
    "to_yaml",
]

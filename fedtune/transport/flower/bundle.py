"""The app bundle that a run sends over Flower: a configuration and no code.

Both apps stand in the installed fedtune, so that what runs is what was installed, and the bundle's
hash, which a node's owner pins, is the same for every recipe.
"""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

from flwr.cli.build import build_fab_from_files
from flwr.supercore.fab import Fab

import fedtune
from fedtune.recipe.source import find_recipe

_RECIPE = "recipes/three_nodes.yaml"  # `fab-include` of pyproject.toml: Flower wants a file


def make_bundle() -> Fab:
    """The bundle of this version of fedtune: what `flwr run .` makes of its repository."""
    files = {"pyproject.toml": _find_pyproject(), _RECIPE: find_recipe("three_nodes")}
    with warnings.catch_warnings():  # of what Flower asks of another package
        warnings.simplefilter("ignore", DeprecationWarning)
        content, _ = build_fab_from_files(files)
    return Fab(hashlib.sha256(content).hexdigest(), content, {})


def _find_pyproject() -> Path:
    """Beside this file in a wheel; at the repository's root else."""
    here = Path(__file__).with_name("pyproject.toml")
    return here if here.is_file() else Path(fedtune.__file__).parents[1] / "pyproject.toml"

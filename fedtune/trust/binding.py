"""What a manifest binds: the recipe as it left, and the keys that are the clients."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from fedtune.deployment.description import read_description
from fedtune.deployment.folder import DESCRIPTION, DeploymentFolder
from fedtune.deployment.node_keys import fingerprint
from fedtune.durable import read_bytes
from fedtune.recipe import Recipe, RecipeError, parse_recipe
from fedtune.recipe.hashing import hash_recipe
from fedtune.recipe.leaving import differences, leaving
from fedtune.recipe.reading import read_mapping
from fedtune.records.folder import RunFolder
from fedtune.records.manifest import Manifest, parse_manifest
from fedtune.round.screening.screen import printable
from fedtune.trust.finding import Finding, noted

RECIPE, KEYS = "recipe", "node_keys"
MOST_KEYS = 20  # of a recipe that are named


@dataclass(frozen=True)
class Bound:
    """What a run's manifest says, and its hash, which names the run.

    Attributes:
        hash: SHA-256 of manifest.json.
        recipe: The text of the recipe as nodes have received it; None in an older run's.
        keys: The fingerprint of each client's key, in the clients' order; empty where there are
            none: a run on one machine, or an older one.
    """

    hash: str
    recipe: str | None
    keys: Sequence[str]
    facts: Manifest


def binding_facts(recipe: Recipe) -> dict[str, Any]:
    """What a manifest says so that its hash binds the recipe and the clients' keys."""
    facts: dict[str, Any] = {RECIPE: leaving(recipe).model_dump_json()}
    if recipe.federation.deployment is not None:
        there = DeploymentFolder.open(recipe.federation.deployment)
        facts[KEYS] = [fingerprint(node.public_key) for node in there.description.nodes]
    return facts


def read_bound(folder: RunFolder) -> Bound:
    """What the manifest of a run binds.

    Raises:
        ValueError: If it is no manifest.
    """
    written = read_bytes(folder.manifest)
    try:
        facts = parse_manifest(written)
    except ValueError as error:
        raise ValueError(f"manifest.json is no manifest: {error}") from error
    return Bound(hashlib.sha256(written).hexdigest(), facts.recipe, facts.node_keys, facts)


def check_recipe(folder: RunFolder, recipe: Recipe, bound: Bound) -> Iterator[Finding]:
    """Whether recipe.yaml is the recipe that the record was begun with, key by key."""
    if bound.recipe is None:
        yield from _check_old(folder, recipe, bound)
        return
    try:
        began = parse_recipe(bound.recipe)
    except RecipeError as error:
        yield Finding(f"manifest.json holds no recipe: {printable(str(error))}")
        return
    found = list(differences(recipe, began))
    for key, here, there in found[:MOST_KEYS]:
        here, there = printable(repr(here))[:80], printable(repr(there))[:80]
        yield Finding(f"recipe.yaml: {printable(key)} is {here}; this run was begun with {there}")
    clients, keys = began.federation.num_clients, len(bound.keys)
    if len(set(bound.keys)) != keys:
        yield Finding("manifest.json names one key for several clients")
    if began.federation.engine == "superlink" and keys != clients:
        yield Finding(f"manifest.json has {keys} node keys for {clients} clients")


def check_deployment(bound: Bound, path: Path) -> Iterator[Finding]:
    """Whether the clients are the nodes of a ``deployment.json``, each at its own number."""
    path = path / DESCRIPTION if path.is_dir() else path
    nodes = read_description(path).nodes
    if len(bound.keys) != len(nodes):
        yield Finding(f"this run had {len(bound.keys)} node keys: {path} has {len(nodes)}")
        return
    wrong = [k for k, node in enumerate(nodes) if fingerprint(node.public_key) != bound.keys[k]]
    for client in wrong:
        yield Finding(f"client {client} of this run is not {nodes[client].name} of {path}")
    if not wrong:
        yield noted(f"clients: the {len(nodes)} keys of {path}, in its order")


def _check_old(folder: RunFolder, recipe: Recipe, bound: Bound) -> Iterator[Finding]:
    need = bound.facts.recipe_hash
    if need not in {hash_recipe(recipe), hash_of_said(folder.recipe)}:
        yield Finding("recipe.yaml is not the recipe whose hash stands in manifest.json")
    yield noted(
        "an older fedtune wrote this record: it does not name its run to the nodes, so that "
        "nothing shows that it is whole, or of the run that is meant"
    )


def hash_of_said(path: Path) -> str:
    """The hash of a recipe by the keys that stand in its file: younger ones have no part in it."""
    said = read_mapping(path)
    for key in ("output_dir", "report_to"):
        said.pop(key, None)
    model = said.get("model", {})
    if model.get("name_or_path") != "nano":
        model["name_or_path"] = Path(str(model.get("name_or_path"))).name
    for key, words in (("initial_adapter", ()), ("reference", ("base", "initial_adapter"))):
        if isinstance(said.get(key), str) and said[key] not in words:
            said[key] = Path(said[key]).name
    for reward in said.get("rewards", ()):
        if reward.get("name") == "reward_model":
            reward["adapter"] = Path(reward["adapter"]).name
    return hashlib.sha256(to_json(said)).hexdigest()

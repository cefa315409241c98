"""What can be known to be wrong at once: no rows, no model library, no trainer."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Collection
from pathlib import Path

from fedtune.adapters.folder import adapter_folder
from fedtune.deployment.folder import DeploymentFolder
from fedtune.node.allowed_keys import key_refusals
from fedtune.recipe import Recipe
from fedtune.recipe.errors import guess
from fedtune.recipe.reward import ModelReward
from fedtune.recipe.trl_keys import quoted_numbers
from fedtune.runs.checks.packages import missing_packages
from fedtune.training.base import check_model, choose_device, choose_dtype


def problems_at_once(recipe: Recipe, promised: Collection[str] = ()) -> list[str]:
    """What is missing or does not fit around a recipe: files, folders, devices, nodes."""
    checks = (_device, _model, _train, _output, _trackers, _packages, _network)
    return [each for check in checks for each in check(recipe)] + _adapters(recipe, promised)


def _device(recipe: Recipe) -> list[str]:
    """What the devices here cannot do; torch is asked only where a recipe depends on its answer."""
    federation, wanted = recipe.federation, recipe.model.device
    threads, cpus = federation.threads_per_client, os.cpu_count() or 1
    if threads > cpus:
        return [f"federation.threads_per_client: needs {threads} CPUs; got {cpus}; lower it"]
    plain = wanted in {"auto", "cpu"} and recipe.model.dtype != "float16"
    if plain and federation.engine != "ray" and federation.client_gpus == 0:
        return []
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(wanted, True):
        return [f"model.device: {wanted} is not there; write auto or cpu"]
    shares, gpus = federation.client_gpus, torch.cuda.device_count()
    if shares > gpus:  # Ray would wait for ever
        return [f"federation.client_gpus: needs {shares:g} GPUs a client; got {gpus}; lower it"]
    device = choose_device(wanted)
    if federation.engine == "ray" and device.type == "cuda" and shares == 0:
        return [
            "federation.client_gpus: ray needs a share of a GPU for each client; write 0.5, say"
        ]
    if choose_dtype(recipe.model.dtype, device) == torch.float16 and device.type == "cpu":
        return ["model.dtype: float16 does not train on a CPU; write float32 or bfloat16"]
    return []


def _model(recipe: Recipe) -> list[str]:
    if recipe.model.load_in_4bit and importlib.util.find_spec("bitsandbytes") is None:
        return ["model.load_in_4bit: needs bitsandbytes; pip install bitsandbytes"]
    try:
        check_model(recipe.model)
    except FileNotFoundError as error:
        text = str(error)
        return [text if text.startswith("model.") else f"model.name_or_path: {text}"]
    return []


def _train(recipe: Recipe) -> list[str]:
    return list(quoted_numbers(recipe.task, recipe.train))


def _output(recipe: Recipe) -> list[str]:
    folder = recipe.output_dir.expanduser().absolute()
    if folder.exists() and not folder.is_dir():
        return [f"output_dir: {folder} is a file; name a folder"]
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:  # permissions alone do not tell: root may write, and the file system may not
        with tempfile.TemporaryFile(dir=existing):
            return []
    except OSError:
        return [f"output_dir: {existing} cannot be written to; name another folder"]


def _trackers(recipe: Recipe) -> list[str]:
    return [
        f"report_to: {name} is not installed; pip install {name}"
        for name in recipe.report_to
        if importlib.util.find_spec(name) is None
    ]


def _packages(recipe: Recipe) -> list[str]:
    return list(missing_packages(recipe.train))


def _network(recipe: Recipe) -> list[str]:
    federation = recipe.federation
    if federation.engine != "superlink":
        return []
    if recipe.attack is not None:
        return ["attack: attackers are simulated on the engines local and ray; write attack=null"]
    if refused := list(key_refusals(recipe.task, recipe.model_dump(mode="json"))):
        return refused
    if federation.deployment is None:
        return ["federation.deployment: superlink needs a folder of fedtune deploy init; name it"]
    try:
        nodes = len(DeploymentFolder.open(federation.deployment).names)
    except (OSError, ValueError) as error:
        return [f"federation.deployment: {error}"]
    if federation.num_clients != nodes:
        return [f"federation.num_clients: needs {nodes}, the nodes of {federation.deployment}: got "
                f"{federation.num_clients}"]  # fmt: skip
    return []


def _adapters(recipe: Recipe, promised: Collection[str]) -> list[str]:
    """Adapters that the run starts from, is held against, or asks for a reward."""
    named = {"initial_adapter": recipe.initial_adapter, "reference": recipe.reference}
    if recipe.reference in {"base", "initial_adapter"}:
        del named["reference"]
    for reward in recipe.rewards:
        if isinstance(reward, ModelReward):
            named[f"rewards.{reward.name}.adapter"] = reward.adapter
    problems = []
    for key, path in named.items():
        try:
            if path is not None and path not in promised:
                adapter_folder(path, key)
        except FileNotFoundError as error:
            stage = guess(str(path), [Path(folder).name for folder in promised])
            problems.append(f"{error}; {stage}" if stage else str(error))
    return problems

"""What only a try can tell: rows, modules, an attack, and one step of TRL's trainer."""

from __future__ import annotations

import re
from contextlib import suppress

import torch

import attacks
from fedtune.recipe import Attack, Recipe
from fedtune.recipe.errors import nearest
from fedtune.recipe.reward import AnyReward
from fedtune.recipe.trl_keys import quoted_numbers
from fedtune.runs.checks.rows import look_at_rows
from fedtune.simulation.attack_check import rehearse
from fedtune.simulation.poisoning import UNBOUNDED
from fedtune.training.adapted import adapted_modules, no_product
from fedtune.training.attention import KEY
from fedtune.training.client_round import looked_at
from fedtune.training.packing import check_architecture, flattened_by, packing_refusals
from fedtune.training.plan import Plan, check_train_keys, with_key
from fedtune.training.rewards import check_rewards, in_lists
from fedtune.training.scores import check_scores
from fedtune.training.skeleton import build_skeleton, module_names
from fedtune.training.sources import find_source, load_rows
from fedtune.training.tasks import TASKS
from fedtune.training.tasks.running import check_values
from fedtune.training.tryout import check_step


def problems_when_tried(recipe: Recipe) -> list[str]:
    """What the libraries that train find wrong with a recipe; no weights are loaded."""
    if problems := _attention(recipe):
        return problems  # no model can be built
    problems = [each for check in (_train, _lora, _ranks) for each in check(recipe)]
    # rows are prepared by the trainer's keys, so that only good ones can tell of rows
    quoted = any(quoted_numbers(recipe.task, recipe.train))  # which is said at once
    spoilt = quoted or any(each.startswith("train") for each in problems)
    tried = (_attack,) if spoilt else (_data, _attack)
    return problems + [each for check in tried for each in check(recipe)]


def _train(recipe: Recipe) -> list[str]:
    task = TASKS[recipe.task]
    problems = check_train_keys(recipe.train, task.config, task.owned)
    problems += packing_refusals(recipe.train)
    if problems or any(quoted_numbers(recipe.task, recipe.train)):
        return problems
    device = torch.device("cpu")  # values are judged without the device that will run them
    plan = Plan.of(recipe, device, torch.float32)
    try:
        check_values(task.config, plan)
        check_step(recipe.task, plan)
        _apart(recipe)
    except (TypeError, ValueError) as error:
        return [with_key(str(error), recipe.train)]
    return []


def _apart(recipe: Recipe) -> None:
    """Refuse rows in one sequence where the architecture does not keep them apart."""
    if TASKS[recipe.task].pack is not None and flattened_by(recipe.train):
        with suppress(OSError):
            config = build_skeleton(recipe.model).config
            check_architecture(recipe.model, config, recipe.train)


def _attention(recipe: Recipe) -> list[str]:
    """What of attention is not here; over a network that is for each node to say."""
    if recipe.model.attn_implementation is None:
        return []
    try:
        build_skeleton(recipe.model, peft_type=TASKS[recipe.task].peft_type)
    except (OSError, ValueError) as error:
        return [str(error)] if str(error).startswith(KEY) else []
    return []


def _lora(recipe: Recipe) -> list[str]:
    """Names of modules that the model has not: PEFT drops one of several in silence."""
    try:
        modules = module_names(recipe.model)
    except (OSError, ValueError):
        return []  # `_model` has said what is wrong
    lora, problems = recipe.lora, []
    targets = [] if isinstance(lora.target_modules, str) else lora.target_modules
    for key, names in (("target_modules", targets), ("modules_to_save", lora.modules_to_save)):
        for name in names:
            if not any(module == name or module.endswith(f".{name}") for module in modules):
                known = {module.split(".")[-1] for module in modules if module}
                problems.append(f"lora.{key}: no module {name!r}; {nearest(name, known)}")
    if isinstance(lora.target_modules, str) and lora.target_modules != "all-linear":
        problems += _pattern(lora.target_modules, modules)
    return problems or _unadapted(recipe)


def _unadapted(recipe: Recipe) -> list[str]:
    """Why PEFT adapts none of it, such as Mamba's projections that its kernels read past it."""
    try:
        adapted_modules(recipe)
    except ValueError as error:
        said = str(error)
        return [said if said.startswith("lora.") else f"lora.target_modules: {said}"]
    except (OSError, re.error):
        pass
    return []


def _pattern(pattern: str, modules: list[str]) -> list[str]:
    try:
        if any(re.fullmatch(pattern, module) for module in modules):
            return []
    except re.error as error:
        return [f"lora.target_modules: {pattern!r} is no regular expression: {error}"]
    return [
        f"lora.target_modules: no module matches {pattern!r}, read as a regular expression; "
        f"write [{pattern}] to name a module"
    ]


def _ranks(recipe: Recipe) -> list[str]:
    """Targets whose A has not full rank from the start: no gauge is the anchor's.

    Fewer outputs than r are no obstacle: only A decides on the gauge.
    """
    try:
        modules = adapted_modules(recipe)
    except (OSError, ValueError, re.error):
        return []  # `_model` or `_lora` has said what is wrong, or only loading can tell
    if (fused := no_product(recipe, modules)) is not None:
        return [fused]
    if recipe.aggregator.geometry == "factors" or recipe.lora.train != "both":
        return []
    problems = []
    narrow = {name: module.d_in for name, module in modules.items() if module.d_in < module.rank}
    if narrow:
        names = sorted({name.split(".")[-1] for name in narrow})
        first, most = next(iter(sorted(narrow))), min(narrow.values())
        r = modules[first].rank
        problems.append(
            f"lora.r: geometry: product needs r of at most {most}, the inputs of {first}: got {r}, "
            f"for which the A of {', '.join(names)} has not full rank; lower r, or leave these out "
            f"of lora.target_modules"
        )
    return problems + [
        f"lora.target_modules: geometry: product needs an A of full rank: got {name}, an "
        f"embedding, on which PEFT starts A at zero; leave it out, or write lora.train: "
        f"alternate (with b_only it would never learn)"
        for name in sorted(modules)
        if modules[name].starts_without_a
    ]


def _data(recipe: Recipe) -> list[str]:
    """The rows, and a step on them; on a network those are the nodes' own."""
    task = TASKS[recipe.task]
    try:
        find_source(recipe.data.source)
        if recipe.attack is not None or _rows_are_elsewhere(recipe):
            rows = load_rows(recipe.data, task, seed=recipe.federation.seed)
            check_rewards(recipe.rewards, rows.column_names)
            check_scores(recipe.evaluation.scores, rows)
            some = looked_at(rows.select(range(min(8, len(rows)))), task).to_list()
            if recipe.attack is not None:
                _try_poison(recipe.attack, some)
    except (FileNotFoundError, ValueError) as error:
        return [str(error)]
    return [] if _rows_are_elsewhere(recipe) else list(look_at_rows(recipe).problems)


def _rows_are_elsewhere(recipe: Recipe) -> bool:
    return recipe.federation.deployment is not None


def _attack(recipe: Recipe) -> list[str]:
    attack = recipe.attack
    if attack is None:
        return []
    if attack.reward_attack is not None and recipe.task != "grpo":
        key = "attack" if attack.poison is None else "attack.poison"
        return [
            f"{key}: {attack.reward_attack[0]} changes what completions are worth, and needs task "
            f"grpo: got {recipe.task}, which has no rewards; name another attack"
        ]
    if attack.reward_attack is not None and any(map(_is_unbounded, recipe.rewards)):
        key = "attack" if attack.poison is None else "attack.poison"
        return [f"{key}: {UNBOUNDED.format(attack.reward_attack[0])}"]
    if attacks.ATTACKS[attack.name].level != "update":
        return []
    refusal = rehearse(recipe)
    return [] if refusal is None else [f"attack: {refusal}"]


def _is_unbounded(reward: AnyReward) -> bool:
    try:
        return in_lists(reward) is not None
    except ValueError:
        return False  # `_data` has said what is wrong


def _try_poison(attack: Attack, rows: list[dict[str, object]]) -> None:
    if attack.data_attack is None or attack.num_attackers == 0:
        return
    name, options = attack.data_attack
    draw = torch.Generator().manual_seed(0)
    try:
        attacks.poison(rows, name, generator=draw, attacker=(0, attack.num_attackers), **options)
    except ValueError as error:
        key = "attack" if attack.poison is None else "attack.poison"
        raise ValueError(f"{key}: {error}") from error

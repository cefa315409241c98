"""`fedtune check`: what is wrong with a recipe, and what it will run, every default resolved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from fedtune.cli.console import Overrides, RecipeName, err, one_screen_errors, out
from fedtune.cli.lazy_torch import load_torch_when_used

if TYPE_CHECKING:
    from fedtune.api import Loaded
    from fedtune.recipe import Recipe


def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="Leave out the tries: rows, modules, attack, a step of the trainer."
        ),
    ] = False,
) -> None:
    """Say what is wrong with a recipe before any model is loaded, and print it resolved.

    The recipe goes to stdout, all else to stderr. First comes what is known at once; then rows,
    modules and attack are tried, and one step of TRL's trainer on a toy. That takes seconds; a
    recipe that passed is not tried again until it, its model, the libraries or the code change.

    fedtune check quickstart --quick
    """
    load_torch_when_used()
    from fedtune.recipe import Recipe, to_yaml
    from fedtune.recipe.stages import load, stages_to_yaml

    with one_screen_errors():
        loaded = load(recipe, overrides or [])
        tell_risks(loaded, quick=True)
        if isinstance(loaded, Recipe):
            lines, text = list(what_will_run(loaded)), to_yaml(loaded)
        else:
            stages = [(each.name, each.recipe) for each in loaded.stages]
            lines = [f"{name}: {line}" for name, each in stages for line in what_will_run(each)]
            text = stages_to_yaml(loaded)
        for line in lines:
            err.print(escape(line), highlight=False, soft_wrap=True)
        for line in [] if quick else _tried(loaded):
            err.print(escape(line), highlight=False)
        out.print(text, markup=False, highlight=False, end="", soft_wrap=True)
        known = "at once; nothing was tried" if quick else "of this recipe"
        err.print(f"[green]nothing wrong is known {known}[/green]")


def tell_risks(recipe: Loaded, *, quick: bool = False) -> None:
    """Refuse what would fail, and say what is worth knowing."""
    from fedtune import api

    for risk in api.check(recipe, quick=quick):
        err.print(f"[yellow]note[/yellow] {escape(risk)}")


def what_will_run(recipe: Recipe) -> Iterator[str]:
    """Rule, outer step and attack with the options that they will have, a line each."""
    section, outer, attack = recipe.aggregator, recipe.outer, recipe.attack
    plan = section.plan()
    chain = " + ".join(_with_options(s.rule.name, s.options) for s in (*plan.chain, plan.last))
    yield (
        f"aggregator: {chain}; f={section.f} of {recipe.federation.sample_size} clients a round, "
        f"geometry {section.geometry}, combination {section.combined_by}"
    )
    options = outer.model_dump(exclude={"name"}, exclude_none=True)
    yield f"outer: {_with_options(outer.name, options)}"
    if attack is not None:
        from attacks import ATTACKS

        crafted = _with_options(attack.name, ATTACKS[attack.name].check_options(attack.options))
        yield f"attack: {attack.num_attackers} simulated attackers, {crafted}"


def _with_options(name: str, options: Mapping[str, object]) -> str:
    """A name with its options; one that is null is found from the rest."""
    told = ", ".join(f"{key}={value}" for key, value in options.items() if value is not None)
    return f"{name} ({told})" if told else name


def _tried(loaded: Loaded) -> list[str]:
    """Try what takes seconds, unless it was tried before; what a client needs, in lines."""
    from fedtune.recipe import Recipe
    from fedtune.runs.checks.remembered import keep, name_of, recall

    recipes = [loaded] if isinstance(loaded, Recipe) else [each.recipe for each in loaded.stages]
    name = name_of(recipes)
    if name is not None and (lines := recall(name)) is not None:
        return lines
    with err.status("trying the rows, the modules, the attack, and a step of TRL's trainer"):
        from fedtune import api

        api.check(loaded)
        lines = [*_rows(loaded), *_reckon(loaded)] if isinstance(loaded, Recipe) else []
    if name is not None:
        keep(name, lines)
    return lines


def _rows(recipe: Recipe) -> list[str]:
    """What of the rows is worth knowing, then how many each client has; on a network, nothing."""
    if recipe.federation.deployment is not None:
        return []
    from fedtune.runs.checks.rows import lines_of, look_at_rows

    found = look_at_rows(recipe)
    return [*(f"note: {each}" for each in found.notes), *lines_of(found)]


def _most_steps(recipe: Recipe) -> int:
    """Steps of the client with most rows."""
    from fedtune.runs.checks.rows import look_at_rows
    from fedtune.training.epochs import steps_of_rows

    return max(steps_of_rows(recipe, each.drawn) for each in look_at_rows(recipe).counts)


def _reckon(recipe: Recipe) -> list[str]:
    """What a client needs; nothing where only loading the model could tell."""
    from fedtune.report.estimate import reckoned
    from fedtune.training.base import choose_device, choose_dtype
    from fedtune.training.estimate import estimate, matmul_speed

    steps, epochs = None, recipe.federation.local_epochs is not None
    if epochs and recipe.federation.deployment is not None:
        return ["reckoned: nothing; how many steps the epochs are, each node's own rows say"]
    try:
        if epochs:
            steps = _most_steps(recipe)
        found = estimate(recipe, steps=steps)
    except (OSError, ValueError):
        return []
    device = choose_device(recipe.model.device)
    speed = matmul_speed(device, choose_dtype(recipe.model.dtype, device))
    return list(reckoned(found, device=device.type, speed=speed))

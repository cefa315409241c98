"""What is wrong with a bench before a model is loaded, found on one cell of each kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from fedtune.attack_bench.cells import Cell
from fedtune.attack_bench.rounds import draw_rounds
from fedtune.attack_bench.schema import MEAN_OF_ALL, NONE, Bench
from fedtune.recipe import Recipe, RecipeError
from fedtune.simulation.without_model import objections


def vet(bench: Bench, cells: Sequence[Cell]) -> list[Cell]:
    """Check the base, each defence and each attack as `fedtune check` would.

    Args:
        bench: What is to run.
        cells: As laid out.

    Returns:
        The cells; those of an attack that has no meaning on this base are skipped, with the reason.

    Raises:
        RecipeError: If the base or a defence could not run.
    """
    if bench.level == "vectors":
        for cell in _first(cells, NONE, MEAN_OF_ALL):
            _raise(objections(_recipe(cell)), "base")
    if bench.rounds is not None and bench.rounds.drawn is not None:
        _draw(bench, cells)
        return list(cells)
    from fedtune.runs.checks.preflight import (
        find_problems,  # it brings all of the training stack
    )

    for cell in _first(cells, NONE, MEAN_OF_ALL):
        _raise(find_problems(_recipe(cell)), "base")
    for defence in bench.defences:
        for cell in _first(cells, NONE, defence):
            _raise(find_problems(_recipe(cell)), f"defences.{defence}")
    if bench.level == "vectors":  # its rows are no data, and attacks act on the rows themselves
        return list(cells)
    return _without_senseless(bench, cells)


def _without_senseless(bench: Bench, cells: Sequence[Cell]) -> list[Cell]:
    """The cells; those whose attack does not apply to this base are skipped."""
    from fedtune.runs.checks.preflight import find_problems

    why = {
        (attack, fraction): "; ".join(problems)
        for attack in (*bench.attacks, *bench.floors)
        for fraction in bench.fractions
        for cell in _first((each for each in cells if each.fraction == fraction), attack, None)
        if (problems := find_problems(_recipe(cell)))
    }
    return [
        replace(cell, state="skipped", message=why[cell.attack, cell.fraction])
        if cell.state == "open" and (cell.attack, cell.fraction) in why
        else cell
        for cell in cells
    ]


def _first(cells: Iterable[Cell], attack: str, defence: str | None) -> list[Cell]:
    """The first cell of this kind that may run, if any may."""
    for cell in cells:
        mine = cell.attack == attack and defence in (None, cell.defence)
        if mine and cell.state == "open":
            return [cell]
    return []


def _recipe(cell: Cell) -> Recipe:
    assert cell.recipe is not None
    return cell.recipe


def _draw(bench: Bench, cells: Sequence[Cell]) -> None:
    assert bench.rounds is not None
    assert bench.rounds.drawn is not None
    for cell in _first(cells, NONE, MEAN_OF_ALL):
        try:
            draw_rounds(bench.rounds.drawn, _recipe(cell))
        except ValueError as error:
            raise RecipeError([str(error)]) from None


def _raise(problems: Sequence[str], where: str) -> None:
    if problems:
        raise RecipeError(f"{where}: {problem}" for problem in problems)

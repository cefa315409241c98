"""fedtune from Python: what the command line does, as functions with typed results and errors.

import fedtune

result = fedtune.run("quickstart", federation={"num_rounds": 2})
print(result.final["loss"], result.adapter)
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedtune.recipe import Model, Recipe, RecipeError, parse_recipe
from fedtune.recipe.beside import read_given
from fedtune.recipe.source import read_recipe
from fedtune.recipe.stages import Pipeline, lay_out
from fedtune.records.bench_result import Line
from fedtune.records.bench_summary import Summary
from fedtune.records.events import Event, ignore
from fedtune.records.folder import RunFolder, holds_stages
from fedtune.runs.adapter_of import base_of, find_adapter
from fedtune.runs.results import RunResult, StagesResult

if TYPE_CHECKING:
    from fedtune.attack_bench.run import Matrix
    from fedtune.runs.pipeline import PipelineFolder, Watch

Loaded = Recipe | Pipeline


def load_recipe(source: str | Path | Mapping[str, Any], **sections: Any) -> Loaded:  # noqa: ANN401
    """Read a recipe, in stages or not.

    Args:
        source: The name of a shipped recipe, a YAML file, or a mapping.
        **sections: Laid over it: a mapping over a section key by key, all else in its place, such
            as ``federation={"num_rounds": 2}, attack=None``.

    Raises:
        RecipeError: With a line for each thing that is wrong.
    """
    raw = read_given(source) if isinstance(source, Mapping) else read_recipe(str(source))
    for name, said in sections.items():
        under = raw.get(name)
        if isinstance(said, Mapping) and isinstance(under, Mapping):
            raw[name] = {**under, **said}
        else:
            raw[name] = said
    return lay_out(raw) if "stages" in raw else parse_recipe(raw)


def check(recipe: Loaded, *, quick: bool = False) -> list[str]:
    """What is worth knowing of a recipe that is in order; no weights are loaded.

    Args:
        recipe: As `load_recipe` gives it.
        quick: Leave out what takes seconds: reading the rows, building the modules, trying the
            attack, and one step of TRL's trainer on a toy.

    Raises:
        RecipeError: With a line for each thing that would fail.
    """
    from fedtune.runs.checks.of_stages import find_stage_problems, find_stage_risks
    from fedtune.runs.checks.preflight import find_problems
    from fedtune.runs.checks.risks import find_risks, notes_on_rows

    if isinstance(recipe, Recipe):
        if problems := find_problems(recipe, quick=quick):
            raise RecipeError(problems)
        risks = list(find_risks(recipe))
        return risks if quick else [*risks, *notes_on_rows(recipe)]
    if problems := find_stage_problems(recipe, quick=quick):
        raise RecipeError(problems)
    return find_stage_risks(recipe)


def run(
    source: str | Path | Mapping[str, Any] | Loaded,
    *,
    on_event: Callable[[Event], None] = ignore,
    **sections: Any,  # noqa: ANN401
) -> RunResult | StagesResult:
    """Run a recipe to its end in a new folder.

    A folder that already holds a run is left alone: the next free number is appended.

    Args:
        source: As in `load_recipe`, or a recipe that was loaded.
        on_event: Told what happens, as it happens, perhaps from another thread; see
            `fedtune.records.events`.
        **sections: As in `load_recipe`; not with a loaded recipe.

    Raises:
        RecipeError: If something is wrong with the recipe; then nothing was begun.
        RunStoppedError: If the run could not go on. `resume` goes on from its last checkpoint.
        KeyboardInterrupt: If it was interrupted; likewise.
    """
    loaded = _loaded(source, sections)
    check(loaded)
    if isinstance(loaded, Recipe):
        folder, loaded = RunFolder.create(loaded)
        return go_on(loaded, folder, on_event)
    from fedtune.runs.pipeline import PipelineFolder

    stages, loaded = PipelineFolder.create(loaded)
    return go_on_stages(loaded, stages, lambda _: nullcontext(on_event))


def resume(
    path: str | Path, *, on_event: Callable[[Event], None] = ignore
) -> RunResult | StagesResult:
    """Go on with a run that was stopped, from its last checkpoint, to the same bits.

    Args:
        path: The run's folder.
        on_event: As in `run`.

    Raises:
        FileNotFoundError: If no run began there.
        RunStoppedError: As `run`.
    """
    path = Path(path).expanduser()
    if holds_stages(path):
        from fedtune.runs.pipeline import PipelineFolder

        stages, pipeline = PipelineFolder.open(path)
        return go_on_stages(pipeline, stages, lambda _: nullcontext(on_event))
    folder, recipe = RunFolder.open(path)
    return go_on(recipe, folder, on_event)


def go_on(recipe: Recipe, folder: RunFolder, on_event: Callable[[Event], None]) -> RunResult:
    """Run what is left of a run.

    Args:
        recipe: Bound to the folder.
        folder: The run's.
        on_event: As in `run`.
    """
    from fedtune.runs.engines import execute

    execute(recipe, folder, on_event)
    return RunResult(folder.path, recipe)


def go_on_stages(pipeline: Pipeline, folder: PipelineFolder, watch: Watch) -> StagesResult:
    """Run what is left of a run in stages.

    Args:
        pipeline: Bound to the folder.
        folder: That of all stages.
        watch: Entered for each stage that is run; gives its observer.
    """
    from fedtune.runs.pipeline import execute_stages

    execute_stages(pipeline, folder, watch)
    done = {s.name: RunResult(s.recipe.output_dir, s.recipe) for s in pipeline.stages}
    return StagesResult(folder.path, done)


def evaluate(path: str | Path, recipe: str | None = None) -> Any:  # noqa: ANN401
    """Measure an adapter on held-out rows: a run's own figures again, to the digit.

    Args:
        path: A run folder, or a PEFT folder.
        recipe: Name or path of the recipe to measure by; default: the run's own.

    Returns:
        ``base``, ``adapter`` and ``clients``, each figures with ``as_dict()``.

    Raises:
        FileNotFoundError: If there is no adapter.
        ValueError: If the adapter stands alone and no recipe is named.
    """
    from fedtune.training.heldout import measure_adapter

    found = find_adapter(Path(path), recipe)
    if found.recipe is None:
        raise ValueError(f"{path} stands alone: say by which recipe to measure it, --recipe NAME")
    return measure_adapter(found.folder, found.recipe)


def merge(path: str | Path, target: str | Path) -> Path:
    """Write base + adapter as a plain Hugging Face model folder, and return it.

    Raises:
        FileExistsError: If the target holds something.
        FileNotFoundError: If there is no adapter, or its base is not there.
    """
    from fedtune.training.merge import merge_adapter

    found = find_adapter(Path(path))
    model = found.recipe.model if found.recipe else Model(name_or_path=base_of(found))
    merge_adapter(found.folder, model, Path(target))
    return Path(target)


def bench(name: str, *overrides: str, folder: str | Path | None = None, jobs: int = 1) -> Summary:
    """Run a matrix of attacks and defences; what is done already is read.

    Args:
        name: The name of a shipped bench, or a YAML file.
        *overrides: ``key=value``, as on the command line.
        folder: Default: ``runs/bench/NAME``.
        jobs: Processes.

    Returns:
        What summary.json holds, by attribute.

    Raises:
        ValueError: If something is wrong with the bench.
    """
    matrix = lay_out_bench(name, overrides, Path(folder) if folder else None)
    lines = matrix.run(jobs=jobs, watcher=_Nobody())
    return write_bench(matrix, lines, command=shlex.join(["fedtune", "bench", name, *overrides]))


def lay_out_bench(name: str, overrides: Sequence[str] = (), folder: Path | None = None) -> Matrix:
    """The cells of a bench, each vetted, none run; arguments as in `bench`.

    Raises:
        ValueError: If something is wrong with the bench.
    """
    from fedtune.attack_bench.cells import lay_out as cells_of
    from fedtune.attack_bench.run import Matrix, bench_command, run_command
    from fedtune.attack_bench.schema import load_bench
    from fedtune.attack_bench.store import Store
    from fedtune.attack_bench.vetting import vet

    target = folder or Path("runs/bench") / Path(name).stem
    loaded = load_bench(name, overrides)
    cells = vet(loaded, cells_of(loaded))
    trains, words = loaded.level == "training", [name, *overrides]
    command = run_command(loaded) if trains else bench_command(loaded, words, target)
    return Matrix(loaded, cells, Store(target), command)


def write_bench(matrix: Matrix, lines: Sequence[Line], *, command: str) -> Summary:
    """Write the summary of a bench as JSON, as Markdown and as a page, and return it.

    Args:
        matrix: The bench.
        lines: Its results.
        command: What repeats it.
    """
    from fedtune.attack_bench.summary import summarise
    from fedtune.durable import write_whole
    from fedtune.report.bench_table import bench_markdown
    from fedtune.report.pages.writing import write_bench_page

    summary = summarise(matrix.bench, matrix.cells, lines, command=command)
    write_whole(matrix.store.summary, summary.model_dump_json(indent=1) + "\n")
    write_whole(matrix.store.table, bench_markdown(summary))
    write_bench_page(matrix.store.path)
    return summary


class _Nobody:
    """Who watches a bench that nobody watches."""

    def plan(self, open_cells: int, seconds: Sequence[float], *, jobs: int) -> None:
        """Of no interest."""

    def begun(self, key: str, name: str) -> None:
        """Likewise."""

    def ended(self, key: str, name: str, told: str, seconds: float) -> None:
        """Likewise."""


def _loaded(source: str | Path | Mapping[str, Any] | Loaded, sections: Mapping[str, Any]) -> Loaded:
    if not isinstance(source, Recipe | Pipeline):
        return load_recipe(source, **sections)
    if sections:
        raise TypeError(f"{', '.join(sections)}: lay them over the recipe when it is loaded")
    return source

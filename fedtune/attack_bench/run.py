"""Run the cells of a bench that are not done yet, and keep what comes of them."""

from __future__ import annotations

import hashlib
import math
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from attacks import ATTACKS
from fedtune.attack_bench.belonging import refuse_to_lose
from fedtune.attack_bench.cells import Cell, words_of
from fedtune.attack_bench.pool import Begun, Ended, run_tasks
from fedtune.attack_bench.schema import MEAN_OF_ALL, NONE, ORACLE, Bench
from fedtune.attack_bench.store import Store
from fedtune.attack_bench.work import Task
from fedtune.origin import code_hash, machine
from fedtune.records.bench_result import Line, Outcome
from fedtune.records.folder import RunFolder


class Watcher(Protocol):
    """Who is told how a bench goes."""

    def plan(self, open_cells: int, seconds: Sequence[float], *, jobs: int) -> None:
        """So many cells have to run; those done before took so many seconds each."""

    def begun(self, key: str, name: str) -> None:
        """A cell, or a recording, is being run."""

    def ended(self, key: str, name: str, told: str, seconds: float) -> None:
        """It has ended."""


@dataclass(eq=False)
class Matrix:
    """A bench on its way: its cells, their names on disk, and the results so far.

    Attributes:
        bench: What is run.
        cells: In the order of results.jsonl.
        store: Where to.
        command: Of a cell: what reproduces it.
        results: By key. Crashed ones are in here and not on disk, so that they run again.
    """

    bench: Bench
    cells: Sequence[Cell]
    store: Store
    command: Callable[[Cell], str]
    keys: list[str] = field(default_factory=list)
    results: dict[str, Outcome] = field(default_factory=dict)

    def run(self, *, jobs: int, watcher: Watcher, for_s: float = math.inf) -> list[Line]:
        """Run what is not done, and return all results.

        Args:
            jobs: Processes.
            watcher: Is told.
            for_s: Begin no cell after so many seconds, but one in any case; those at work are
                waited for.

        Raises:
            KeyboardInterrupt: If it was interrupted. Every finished cell is kept.
            ValueError: If another process runs a bench in this folder, or it shows a matrix that
                this one does not hold.
            RuntimeError: If rows cannot be recorded, or no process starts.
        """
        until = time.monotonic() + for_s
        self.store.open()
        with RunFolder(self.store.path).locked():
            refuse_to_lose(self.store, self.bench)
            files = self._record(jobs, watcher)
            tasks = self._tasks(files)
            seconds = [each.seconds for each in self.results.values()]
            watcher.plan(len(tasks), seconds, jobs=min(jobs, max(1, len(tasks))))
            try:
                self._run_cells(tasks, jobs, watcher, until)
            finally:
                self.store.write_results(self.lines(), now=True)
        return list(self.lines())

    def lines(self) -> Iterator[Line]:
        """One line per cell that has a result, in the order of the cells; none before `run`."""
        if not self.keys:
            return
        for cell, key in zip(self.cells, self.keys, strict=True):
            if cell.state != "open":
                yield self._line(cell, key, Outcome(status=cell.state, message=cell.message))
            elif key in self.results:
                yield self._line(cell, key, self.results[key])

    def _record(self, jobs: int, watcher: Watcher) -> dict[int, Path]:
        """Level vectors: have the rows recorded, one file for each seed."""
        rounds = self.bench.rounds
        if rounds is None or rounds.recorded is None:
            return {}
        bases = {cell.seed: cell.recipe for cell in self.cells if _is_base(cell) and cell.recipe}
        tasks = [
            Task(
                key=f"seed {seed}",
                group=f"{seed}",
                kind="record",
                recipe_json=recipe.model_dump_json(),
                path=str(self.store.recorded),
            )
            for seed, recipe in bases.items()
        ]
        files: dict[int, Path] = {}
        for event in run_tasks(tasks, jobs=jobs, log=self.store.log):
            name = f"record honest updates, {event.key}"
            if isinstance(event, Begun):
                watcher.begun(event.key, name)
                continue
            result = event.result
            if result.status != "done" or result.file is None:
                raise RuntimeError(f"{name}: {result.message}; see {self.store.log}")
            files[int(event.key.removeprefix("seed "))] = Path(result.file)
            watcher.ended(event.key, name, "recorded", result.seconds)
        return files

    def _tasks(self, files: Mapping[int, Path]) -> list[Task]:
        """What has to run, those of one seed side by side; the rest is read."""
        rounds = self.bench.rounds
        drawn = rounds.drawn.model_dump_json() if rounds and rounds.drawn else ""
        sources = {seed: hash_of(path.read_bytes()) for seed, path in files.items()}
        tasks: dict[str, Task] = {}
        for cell in self.cells:
            if cell.recipe is None:
                self.keys.append("")
                continue
            key = cell.identify(self.bench.level, sources.get(cell.seed, drawn))
            self.keys.append(key)
            if cell.state != "open" or key in tasks or key in self.results:
                continue
            found = self.store.read(key)
            if found is not None and not _is_outdated(found):
                self.results[key] = found
                continue
            path = files.get(cell.seed, self.store.cell(key))
            tasks[key] = Task(
                key=key,
                group=f"{cell.seed}",
                kind=self.bench.level,
                recipe_json=cell.recipe.model_dump_json(),
                path=str(path),
                drawn_json=drawn,
                remembered=str(self.store.remembered),
            )
        return sorted(tasks.values(), key=lambda task: self.bench.seeds.index(int(task.group)))

    @property
    def left(self) -> int:
        """How many cells may run and have no result."""
        pairs = zip(self.cells, self.keys, strict=True)
        return sum(cell.state == "open" and key not in self.results for cell, key in pairs)

    def _run_cells(self, tasks: Sequence[Task], jobs: int, watcher: Watcher, until: float) -> None:
        begun = False

        def may_start() -> bool:
            return not begun or time.monotonic() < until

        names = {key: name_of(cell) for cell, key in zip(self.cells, self.keys, strict=True) if key}
        for event in run_tasks(tasks, jobs=jobs, log=self.store.log, may_start=may_start):
            name = names[event.key]
            if isinstance(event, Begun):
                begun = True
                watcher.begun(event.key, name)
                continue
            # the process that ran the cell says by which code; one that died could not
            result = event.result
            if result.code is None:
                result = result.model_copy(update={"code": code_hash(), "machine": machine()})
            self.results[event.key] = result
            if result.status != "crashed":
                self.store.keep(event.key, result)
            self.store.write_results(self.lines(), now=False)
            watcher.ended(event.key, name, _told(event), result.seconds)

    def _line(self, cell: Cell, key: str, result: Outcome) -> Line:
        return Line(
            cell=key,
            level=self.bench.level,
            attack=cell.attack,
            defence=cell.defence,
            fraction=cell.fraction,
            num_attackers=cell.num_attackers,
            num_clients=cell.num_clients,
            f=cell.f,
            seed=cell.seed,
            goal=goal_of(self.bench, cell),
            command=self.command(cell),
            **dict(result),
        )


def hash_of(content: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


def name_of(cell: Cell) -> str:
    """A cell in words."""
    return f"{cell.attack} on {cell.defence}, {cell.fraction:.0%}, seed {cell.seed}"


def goal_of(bench: Bench, cell: Cell) -> str | None:
    """What the attacker wants, if there is one that acts."""
    if cell.attack in {NONE, ORACLE}:
        return None
    return ATTACKS[(bench.attacks | bench.floors)[cell.attack]["name"]].goal


def run_command(bench: Bench) -> Callable[[Cell], str]:
    """Level training: the `fedtune run` that is this cell."""
    base = shlex.quote(bench.base)
    return lambda cell: " ".join(["fedtune", "run", base, *words_of(cell.changes)])


def bench_command(bench: Bench, words: Sequence[str], out: Path) -> Callable[[Cell], str]:
    """Level vectors: the `fedtune bench` of this cell, its references and nothing else.

    Args:
        bench: What is run.
        words: Its name and the overrides, as given.
        out: The folder of the whole bench: the cell's own stands beside it.
    """

    def command(cell: Cell) -> str:
        changes: list[tuple[str, Any]] = [("fractions", [cell.fraction]), ("seeds", [cell.seed])]
        if cell.defence in bench.defences:
            changes.append(("defences", {cell.defence: bench.defences[cell.defence]}))
        if cell.attack in bench.attacks:
            changes.append(("attacks", {cell.attack: bench.attacks[cell.attack]}))
        told = " ".join(words_of(tuple(changes)))
        own = f"{out}-cell-{hash_of(told.encode())[:8]}"
        return f"{shlex.join(['fedtune', 'bench', *words])} {told} --out {shlex.quote(own)}"

    return command


def _is_base(cell: Cell) -> bool:
    return cell.attack == NONE and cell.defence == MEAN_OF_ALL


def _is_outdated(result: Outcome) -> bool:
    """Whether a run broke off or its attack could not be executed, by code that has changed."""
    return result.status in {"skipped", "stopped"} and result.code != code_hash()


def _told(event: Ended) -> str:
    result = event.result
    if result.status == "done":
        return f"loss {result.loss:.4g}"
    return f"{result.status}: {result.message}"

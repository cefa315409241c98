"""What one process of the pool does: one task after the other, each to a plain result."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.process import parent_process
from pathlib import Path
from typing import Literal

from fedtune.attack_bench.measured import NOT_FINITE
from fedtune.origin import code_hash, machine
from fedtune.records.bench_result import Outcome

READY = "ready"
DOERS = {"training": "training", "vectors": "vectors", "record": "recording"}  # kind: module


@dataclass(frozen=True, kw_only=True)
class Task:
    """Something to run, as it travels to another process.

    Attributes:
        key: Its name among the tasks.
        group: What shares work with it; one process does a group's tasks in a row.
        kind: A cell on real training, a cell on given rows, or the recording of such rows.
        recipe_json: What to run.
        path: training: the cell's run folder. vectors: the record. record: the folder of records.
        drawn_json: vectors: the formula, where the rows are drawn.
        remembered: training: the folder of client-rounds that cells have in common.
    """

    key: str
    group: str
    kind: Literal["training", "vectors", "record"]
    recipe_json: str
    path: str
    drawn_json: str = ""
    remembered: str = ""


def serve(pipe: Connection, log: Path, kinds: Sequence[str]) -> None:
    """Do what comes through the pipe until None comes.

    What the libraries print goes to the log: the screen is the bench's. Ends with its parent.

    Args:
        pipe: To the pool.
        log: Where to write what is printed.
        kinds: Of the tasks to come: what they need is imported before the first.
    """
    code_hash()  # of the files as they are when this process reads them
    stream = log.open("a", encoding="utf-8")
    for number in (1, 2):
        os.dup2(stream.fileno(), number)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(1)
    for kind in kinds:
        import_module(f"fedtune.attack_bench.{DOERS[kind]}")
    if {*kinds} - {"vectors"}:
        from fedtune.training.process import load_libraries

        load_libraries()
    pipe.send(READY)
    while (task := pipe.recv()) is not None:
        pipe.send(perform(task))


def perform(task: Task) -> Outcome:
    """Run one task.

    Returns:
        What was measured, and how it ended: done, stopped (the run itself could not go on),
        diverged (its loss is no finite number, or it could not go on and was worse than its base by
        then), skipped (the attack could not be executed), or crashed (something that is no result).
    """
    from fedtune.records.events import AttackFailedError, RunStoppedError

    started = time.monotonic()
    try:
        result = _run(task)
        if task.kind != "record" and result.loss is None:
            told = {"status": "diverged", "message": result.message or NOT_FINITE}
            result = result.model_copy(update=told)
    except AttackFailedError as error:
        result = Outcome(status="skipped", message=str(error))
    except RunStoppedError as error:
        result = Outcome(status="stopped", message=str(error))
    except Exception as error:
        print(f"{task.key}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        result = Outcome(status="crashed", message=f"{type(error).__name__}: {error}")
    seconds = round(time.monotonic() - started, 3)
    made = {"seconds": seconds, "code": code_hash(), "machine": machine()}
    return result.model_copy(update=made)


def _run(task: Task) -> Outcome:
    from fedtune.recipe import parse_recipe

    recipe, path = parse_recipe(task.recipe_json), Path(task.path)
    if task.kind == "record":
        from fedtune.attack_bench.recording import record_rounds

        return Outcome(file=str(record_rounds(recipe, path)))
    if task.kind == "training":
        from fedtune.attack_bench.training import train_cell

        return train_cell(recipe, path, remembered=Path(task.remembered))
    from fedtune.attack_bench.rounds import draw_rounds, load_rounds
    from fedtune.attack_bench.schema import Drawn
    from fedtune.attack_bench.vectors import replay_cell

    if task.drawn_json:
        given = draw_rounds(Drawn.model_validate_json(task.drawn_json), recipe)
        return replay_cell(recipe, given)
    return replay_cell(recipe, load_rounds(path))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)

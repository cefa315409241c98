"""A pool of processes that outlives the death of any of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from fedtune.attack_bench.work import READY, Task, serve
from fedtune.records.bench_result import Outcome

ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(frozen=True)
class Begun:
    """A process has taken up a task."""

    key: str


@dataclass(frozen=True)
class Ended:
    """A task has its result; status ``crashed`` where its process died."""

    key: str
    result: Outcome


@dataclass(eq=False)
class _Hand:
    process: BaseProcess
    pipe: Connection
    ready: bool = False
    group: str | None = None
    task: Task | None = None


def always() -> bool:
    """Every task may start."""
    return True


def run_tasks(
    tasks: Sequence[Task], *, jobs: int, log: Path, may_start: Callable[[], bool] = always
) -> Iterator[Begun | Ended]:
    """Run all tasks, each in one of ``jobs`` processes; torch starts with one thread there.

    A process goes on with the group of its last task as long as there is one left, so that what
    the tasks of a group share is loaded once. Leaving the iterator early ends the processes.

    Args:
        tasks: With keys that differ; of level training each sets its threads_per_client.
        jobs: Processes at most.
        log: A file for what the processes print.
        may_start: Asked whenever a task may have ended; once it says no, none is begun any more,
            and those at work are waited for.

    Raises:
        RuntimeError: If a process cannot even start.
    """
    left = list(tasks)
    kinds = sorted({task.kind for task in tasks})
    hands: list[_Hand] = []
    try:
        while left or any(hand.task for hand in hands):
            if not may_start():
                left.clear()
            while len(hands) < min(jobs, len(left) + sum(bool(hand.task) for hand in hands)):
                hands.append(_start(log, kinds))
            ready = wait([each for hand in hands for each in (hand.pipe, hand.process.sentinel)])
            for hand in [hand for hand in hands if hand.pipe in ready or _is_dead(hand)]:
                yield from _attend(hand, log)
                if _is_dead(hand) and not hand.task:
                    hands.remove(hand)
                elif hand.task is None and left:
                    task = _choose(left, hand, hands)
                    left.remove(task)
                    hand.task, hand.group = task, task.group
                    yield from _send(hand)
                elif hand.task is None:
                    _dismiss(hand)
                    hands.remove(hand)
    finally:
        for hand in hands:
            hand.process.terminate()
            hand.process.join()
            hand.pipe.close()


def _attend(hand: _Hand, log: Path) -> Iterator[Ended]:
    """Take what a process has said; if it died, that is what its task has come to."""
    try:
        said = hand.pipe.recv() if hand.pipe.poll() else None
    except (EOFError, OSError):
        said = None
    if said == READY:
        hand.ready = True
    elif said is not None and hand.task:
        task, hand.task = hand.task, None
        yield Ended(task.key, said)
    elif _is_dead(hand):
        if not hand.ready:
            raise RuntimeError(f"a process of the bench could not start; see {log}")
        if hand.task:
            task, hand.task = hand.task, None
            why = f"its process ended with code {hand.process.exitcode}; see {log}"
            yield Ended(task.key, Outcome(status="crashed", message=why))


def _send(hand: _Hand) -> Iterator[Begun]:
    assert hand.task is not None
    yield Begun(hand.task.key)
    try:
        hand.pipe.send(hand.task)
    except OSError:  # it has died; `_attend` will see it
        return


def _choose(left: Sequence[Task], hand: _Hand, hands: Sequence[_Hand]) -> Task:
    """The next task of the hand's own group, else of a group that no one works on, else any."""
    busy = {other.group for other in hands if other.task}
    own = (task for task in left if task.group == hand.group)
    free = (task for task in left if task.group not in busy)
    return next(own, None) or next(free, None) or left[0]


def _is_dead(hand: _Hand) -> bool:
    return not hand.process.is_alive()


def _dismiss(hand: _Hand) -> None:
    hand.pipe.send(None)
    hand.process.join()
    hand.pipe.close()


def _start(log: Path, kinds: Sequence[str]) -> _Hand:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs, log, kinds), daemon=True)
    with _as_children_should_be():
        process.start()
    theirs.close()
    return _Hand(process, ours)


@contextmanager
def _as_children_should_be() -> Iterator[None]:
    """One thread each, and deaf to Ctrl-C: the parent ends them. A child inherits both."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN) if main else None
    os.environ.update(dict.fromkeys(ONE_THREAD, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
        if main:
            signal.signal(signal.SIGINT, handler)

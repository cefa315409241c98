"""Where a run stands, from its folder alone: at work, finished or stopped, and how far it is."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from fedtune.records.event_log import LOG, OLD_LOG, LogState, read_event_log
from fedtune.records.events import Refused, RunStarted
from fedtune.records.folder import STAGES, RunFolder
from fedtune.records.growing import Records, Remembered, read_object
from fedtune.records.lines import RoundRecord
from fedtune.records.manifest import Manifest
from fedtune.records.told_rows import rows_by_client
from fedtune.report.outline import Outline, read_outline
from fedtune.report.progress import Progress
from fedtune.report.silenced import Silence, silences
from fedtune.report.summary import RunFacts, summarise

State = Literal["running", "finished", "stopped", "unknown"]


@dataclass(frozen=True)
class Refusal:
    """One reason for which a client's reply did not count, and how often.

    ``reason`` is a stranger's words.
    """

    client: int
    reason: str
    times: int
    last_round: int


@dataclass(frozen=True)
class Recorded:
    """What the records add up to; worked out once for each new record."""

    records: Sequence[RoundRecord]
    facts: RunFacts
    refusals: Mapping[tuple[int, str], Refusal]
    asked_rounds: Mapping[int, int]
    dropped_rounds: Mapping[int, int]
    round_s: float | None
    train_losses: Mapping[int, float]
    retried_rounds: int
    second_replies: int
    silences: Sequence[Silence]


@dataclass(frozen=True)
class RunStatus:
    """One run as its folder tells it.

    Attributes:
        path: The folder.
        resume: The folder that is given to ``--resume``: of the stages, if it is one of several.
        state: ``unknown`` where no system call tells whether a process is at work.
        recipe: The run's, in few words.
        recorded: What the rounds that are done add up to.
        progress: The same and the round in progress, up to the last event.
        told: What the event log says beside events.
        manifest: As the run wrote it; empty if it never came so far.
        rows: Training rows of the clients of whom they are known.
        left_s: Seconds left, once it goes on; None if no round was timed yet.
        elapsed_s: Seconds since this process began; None if none is known to be at work.
        quiet_s: Seconds since the run last wrote anything.
        refusals: Of all rounds, the one in progress among them, the newest first.
    """

    path: Path
    resume: Path
    state: State
    recipe: Outline
    recorded: Recorded
    progress: Progress
    told: LogState
    manifest: Manifest
    rows: Mapping[int, int]
    left_s: float | None
    elapsed_s: float | None
    quiet_s: float
    refusals: Sequence[Refusal]


class Watch:
    """Looks at one run's folder again and again, and reads only what is new.

    Args:
        path: Of a single run; `fedtune.report.status_stages` looks at folders of several.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder = RunFolder(path)
        self._records = Records(self._folder.metrics)
        self._recipe = Remembered(self._folder.recipe, read_outline)
        self._recorded: Recorded | None = None

    def look(self, now: float | None = None) -> RunStatus:
        """Where the run stands.

        Args:
            now: Seconds since the epoch; default: the clock's.

        Raises:
            FileNotFoundError: If no run began in the folder, or it is gone.
            ValueError: If what lies there is damaged.
        """
        now = time.time() if now is None else now
        if not self._folder.recipe.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: it needs a recipe.yaml")
        recipe = self._recipe()
        # Before the files: a run that ends in between is seen at work once more, never as stopped.
        at_work = self._folder.at_work()
        told = read_event_log(self.path)
        recorded = self._add_up()
        rounds = recipe.num_rounds
        ended = recorded.facts.stopped_early or recorded.facts.rounds >= rounds
        whole = ended and self._folder.adapter.is_dir()
        state = _state(at_work, whole=whole)
        running = state in {"running", "unknown"}
        progress = replay(recorded.records, told, rounds, now=now if running else None)
        usual = recorded.round_s
        left = 0 if ended else rounds - recorded.facts.rounds
        later = None if usual is None else usual * left
        began = told.began_at if state == "running" else None
        manifest = self._folder.read_manifest()
        return RunStatus(
            path=self.path,
            resume=resumed_as(self.path),
            state=state,
            recipe=recipe,
            recorded=recorded,
            progress=progress,
            told=told,
            manifest=manifest,
            rows=rows_by_client(self.path, manifest),
            left_s=progress.left_s() if running else later,
            elapsed_s=None if began is None else max(0.0, now - began),
            quiet_s=max(0.0, now - last_written(self.path)),
            refusals=_with_these(recorded.refusals, progress, told),
        )

    def _add_up(self) -> Recorded:
        records = self._records.read()
        if self._recorded is None or self._recorded.records is not records:
            self._recorded = add_up(records)
        return self._recorded


def _state(at_work: bool | None, *, whole: bool) -> State:
    if at_work:
        return "running"
    if whole:
        return "finished"
    return "unknown" if at_work is None else "stopped"


def add_up(records: Sequence[RoundRecord]) -> Recorded:
    """Work out what a run's records add up to."""
    timed = [each.round_s for each in records if each.round_s is not None]
    counted = next((each for each in reversed(records) if each.asked_rounds), RoundRecord(round=0))
    return Recorded(
        records=records,
        facts=summarise(records),
        refusals=_collect((each.round, *found) for each in records for found in each.refusals()),
        asked_rounds=counted.asked_rounds,
        dropped_rounds=counted.dropped_rounds,
        round_s=statistics.median(timed) if timed else None,
        train_losses={
            client: one.train_loss
            for record in records
            for client, one in record.clients.items()
            if one.train_loss is not None
        },
        second_replies=sum(sum(each.repeated.values()) for each in records),
        silences=silences(records),
        retried_rounds=sum(each.attempt > 0 for each in records),
    )


def replay(
    records: Sequence[RoundRecord], told: LogState, num_rounds: int, *, now: float | None
) -> Progress:
    """The state of a run as its records and its event log tell it.

    Args:
        records: Of metrics.jsonl.
        told: By the event log.
        num_rounds: Of the recipe.
        now: Up to when the clock runs, in seconds since the epoch; None: to the last event.
    """
    last = told.events[-1][0] if told.events else told.began_at or 0.0
    clock = [told.began_at or last]
    progress = Progress(num_rounds, lambda: clock[0])
    progress.take(RunStarted(list(records)))
    done, progress.begun = progress.done, told.begun or (now is None and bool(records))
    for at, event in told.events:
        # A round's record comes a moment before the log forgets the round.
        if done < event.round <= num_rounds:
            clock[0] = at
            progress.take(event)
    clock[0] = last if now is None else now
    return progress


def _collect(found: Iterable[tuple[int, int, str]]) -> dict[tuple[int, str], Refusal]:
    refusals: dict[tuple[int, str], Refusal] = {}
    for round_, client, reason in found:
        key = client, reason
        known = refusals.get(key) or Refusal(client, reason, 0, round_)
        refusals[key] = replace(known, times=known.times + 1, last_round=round_)
    return refusals


def _with_these(
    refusals: Mapping[tuple[int, str], Refusal], progress: Progress, told: LogState
) -> list[Refusal]:
    """The refusals of all rounds with those of the round in progress, the newest first."""
    found = dict(refusals)
    for _, event in told.events:
        if isinstance(event, Refused) and event.round > progress.done:
            key = event.client, event.reason
            known = found.get(key) or Refusal(event.client, event.reason, 0, event.round)
            found[key] = replace(known, times=known.times + 1, last_round=event.round)
    return sorted(found.values(), key=lambda each: (-each.last_round, each.client))


def last_written(path: Path) -> float:
    """When the run last wrote a record or an event, or began, in seconds since the epoch."""
    found = [path / name for name in ("recipe.yaml", "metrics.jsonl", LOG, OLD_LOG)]
    return max((each.stat().st_mtime for each in found if each.is_file()), default=0.0)


def resumed_as(path: Path) -> Path:
    """The folder to be given to ``--resume``: that of all stages if this is one's, else itself."""
    if not (path.parent / STAGES).is_file():
        return path
    stages = read_object(path.parent / STAGES).get("stages")
    return path.parent if isinstance(stages, dict) and path.name in stages else path

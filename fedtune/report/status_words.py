"""Where a run stands, in words for the screen and for the page: both show the same ones."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedtune.report.figures import STANDING, curve_title, shown
from fedtune.report.names import name_of
from fedtune.report.silenced import headlines
from fedtune.report.status import RunStatus
from fedtune.report.status_clients import ClientRow, client_rows
from fedtune.report.status_stages import StagesStatus, StageStatus
from fedtune.report.summary import best_in_words
from fedtune.report.text import as_typed, clean, duration, figure, size, thin

MAX_POINTS = 400  # of the curve
MAX_REFUSALS = 40
MAX_WHY = 1000
KILLED = "The last process left no word: it was killed, or the machine went down."
NOT_AT_WORK = "No process works in the folder."
NOT_BEGUN = f"{NOT_AT_WORK} If it was started a moment ago, look again."
STAGE_LABELS = {"Time left": "Time left, this stage", "Traffic": "Traffic, this stage"}
CANNOT_TELL = "This system does not tell whether a process works in the folder."


@dataclass(frozen=True)
class View:
    """What is shown of a run, ready to be laid out; clients' words are one clean line each.

    Attributes:
        name: Of the run.
        rule: The recipe in a line.
        state: running, finished, stopped or unknown.
        say: In a sentence, how far it is.
        why: Why it stopped.
        silenced: Who had no part in some rounds, a line for honest clients and one for attackers.
        share: Of the rounds that is done, in [0, 1]; the replies of this round count their part.
        commands: What to type next.
        facts: Labels and what belongs to each.
        leads: Which figure the curve is of, loss or reward.
        curve_title: Of the curve.
        curve: Round and held-out figure; None where it was not finite.
        base: The figure before training.
        stages: Name, task, state, rounds and figures of each, if there are several.
        clients: A row for each that is shown.
        left_out: How many clients have no row.
        refusals: Who, when, and the reason.
    """

    name: str
    rule: str
    state: str
    say: str
    why: str | None = None
    silenced: Sequence[str] = ()
    share: float = 0.0
    commands: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    leads: str = "loss"
    curve_title: str = ""
    curve: Sequence[tuple[int, float | None]] = ()
    base: float | None = None
    stages: Sequence[tuple[str, str, str, str, str]] = ()
    clients: Sequence[ClientRow] = field(default_factory=list)
    left_out: int = 0
    refusals: Sequence[tuple[str, str, str]] = ()


def view_of(status: RunStatus | StagesStatus) -> View:
    """Put a status into words."""
    return _of_stages(status) if isinstance(status, StagesStatus) else _of_run(status)


def typed(path: Path) -> str:
    """A folder as one would type it here, on one line."""
    here = Path(os.path.abspath(os.curdir))
    return shlex.quote(clean(path if path == here else as_typed(path), limit=4096))


def _of_run(status: RunStatus) -> View:
    recorded, progress = status.recorded, status.progress
    facts = recorded.facts
    rows, left_out = client_rows(status)
    return View(
        name=clean(status.recipe.name, limit=80),
        rule=clean(f"{status.recipe.task} of {status.recipe.model} | {status.recipe.rule}"),
        state=status.state,
        say=_say(status),
        why=_why(status),
        silenced=headlines(recorded.silences, status.manifest),
        share=_share(status),
        commands=_commands(status),
        facts=[*_figures(status), *_facts(status)],
        leads=facts.leads,
        curve_title=curve_title(facts.leads),
        curve=thin(facts.curve, MAX_POINTS),
        base=facts.base.get(facts.leads),
        clients=rows if progress.begun or facts.rounds else [],
        left_out=left_out if progress.begun or facts.rounds else 0,
        refusals=_refusals(status),
    )


def _of_stages(status: StagesStatus) -> View:
    done = sum(each.state == "done" for each in status.stages)
    current = status.current
    say = f"{done} of {len(status.stages)} stages are done."
    why = NOT_AT_WORK if status.state == "stopped" else None
    inner = View("", "", status.state, "", why)
    if current.run is not None:
        inner = _of_run(current.run)
        if status.state != "finished":
            say += f" Stage {clean(current.name, limit=80)}: {inner.say}"
    commands = inner.commands
    if status.state == "stopped":
        resumable = current.run is None or current.run.told.resumable
        commands = [f"fedtune run --resume {typed(status.path)}"] if resumable else []
    return replace(
        inner,
        name=clean(status.path.name, limit=80),
        state=status.state,
        say=say,
        share=(done + (inner.share if current.state != "done" else 0.0)) / len(status.stages),
        facts=[(STAGE_LABELS.get(label, label), text) for label, text in inner.facts],
        stages=[_stage(each) for each in status.stages],
        commands=commands,
    )


def _stage(stage: StageStatus) -> tuple[str, str, str, str, str]:
    name, task = clean(stage.name, limit=40), clean(stage.task, limit=20)
    if stage.run is None:
        return name, task, stage.state, "-", "-"
    facts, rounds = stage.run.recorded.facts, stage.run.recipe.num_rounds
    told = [
        f"{label} {write(facts.base.get(key))} to {write(facts.final.get(key))}"
        for label, key, write in shown(facts.final)
        if key in STANDING
    ]
    return name, task, stage.state, f"{facts.rounds} of {rounds}", ", ".join(told) or "-"


def _say(status: RunStatus) -> str:
    progress, of = status.progress, status.recipe.num_rounds
    done = f"{progress.done} of {of} rounds are done"
    asked, refused = len(progress.clients), progress.count("refused")
    heard = f"{progress.count('replied')} of {asked} replied" + f", {refused} refused" * bool(
        refused
    )
    if status.state == "finished":
        return f"{done}."
    if status.state == "stopped":
        return f"{done}; in round {progress.round}, {heard}." if asked else f"{done}."
    if not progress.begun:
        return f"{progress.phase[:1].upper()}{progress.phase[1:]}; {done}."
    if progress.done >= of:
        return f"{done}; the adapter is being written."
    if asked:
        return f"Round {progress.round} of {of}: {progress.phase}; {heard}."
    return f"{done}."


def _why(status: RunStatus) -> str | None:
    if status.state == "unknown":
        return CANNOT_TELL
    if status.state != "stopped":
        return None
    if status.told.stopped is not None:
        return clean(status.told.stopped, limit=MAX_WHY)
    if status.told.began_at is None and not status.recorded.records:
        return NOT_BEGUN
    return KILLED


def _share(status: RunStatus) -> float:
    progress, of = status.progress, status.recipe.num_rounds
    if status.state == "finished":
        return 1.0
    asked = len(progress.clients)
    part = (asked - progress.count("waiting")) / asked if asked and progress.done < of else 0.0
    return min(1.0, (progress.done + part) / of)


def _commands(status: RunStatus) -> list[str]:
    where = typed(status.path)
    if status.state == "finished":
        return [f"fedtune report {where}", f"fedtune evaluate {where}"]
    if status.state == "stopped" and status.told.resumable:
        return [f"fedtune run --resume {typed(status.resume)}"]
    return []


def _figures(status: RunStatus) -> list[tuple[str, str]]:
    facts = status.recorded.facts
    lines = []
    for label, key, write in shown(facts.final):
        before, after = write(facts.base.get(key)), write(facts.final.get(key))
        text = f"{before} to {after}" if facts.rounds else f"{after} before training"
        lines.append((f"Held-out {label}", text))
    return lines


def _facts(status: RunStatus) -> list[tuple[str, str]]:
    recorded, progress = status.recorded, status.progress
    sizes = f"{size(progress.upload_bytes)} up, {size(progress.download_bytes)} down"
    facts = [("A round", _seconds(recorded.round_s))]
    if status.state != "finished":
        once = "" if status.state == "running" else ", once it goes on"
        left = duration(status.left_s, none="not known yet")
        facts.append(("Time left", left + (once if status.left_s is not None else "")))
    if status.elapsed_s is not None:
        facts.append(("At work for", duration(status.elapsed_s)))
    if status.state != "finished":
        facts.append(("Last sign of life", f"{duration(status.quiet_s)} ago"))
    facts.append(("Traffic", sizes))
    facts.append(("Clients", f"{status.recipe.num_clients}, engine {_engine(status)}"))
    if progress.losses:
        losses = sorted(progress.losses.values())
        text = f"{figure(losses[0])} to {figure(losses[-1])}, {len(losses)} clients' word"
        facts.append(("Training loss, this round", text))
    if recorded.facts.undone:
        facts.append(("Steps", recorded.facts.undone))
    if best := best_in_words(recorded.facts):
        facts.append(("Rounds", best))
    if recorded.retried_rounds:
        facts.append(("Asked again", f"in {recorded.retried_rounds} of {progress.done} rounds"))
    if recorded.second_replies:
        facts.append(("Second replies", f"{recorded.second_replies}, not looked at"))
    return facts


def _engine(status: RunStatus) -> str:
    return clean(status.recipe.engine, limit=40)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "not known yet"
    return f"{seconds:.1f} s" if seconds < 60 else duration(seconds)


def _refusals(status: RunStatus) -> list[tuple[str, str, str]]:
    lines = []
    for each in status.refusals[:MAX_REFUSALS]:
        times = "" if each.times == 1 else f"{each.times} times, last in "
        when = f"{times}round {each.last_round}"
        lines.append((name_of(each.client, status.manifest), when, clean(each.reason, limit=400)))
    if (left := len(status.refusals) - MAX_REFUSALS) > 0:
        lines.append(("", "", f"{left} more are in metrics.jsonl"))
    return lines

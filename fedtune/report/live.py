"""Progress on the screen while a run lasts; plain lines where there is no terminal."""

from __future__ import annotations

import statistics
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from fedtune.records.events import Event, Ignored, Refused, RoundFinished, RunStarted
from fedtune.records.lines import RoundRecord
from fedtune.report.progress import Mark, Progress
from fedtune.report.summary import describe
from fedtune.report.text import clean, duration, figure, marks_for, size, sparkline
from fedtune.report.undone import outcome_of, undone_by

if TYPE_CHECKING:  # it brings torch
    from fedtune.recipe import Recipe

REDRAWS_PER_S = 4
NUMBERED_CLIENTS = 24  # with more than this, a client is a mark without its number
MARKED_CLIENTS = 200  # with more than this, only counts are shown
JUDGED = {
    "halved": "half of the step stands, ",
    "undone": "undone by {by}, ",
    "no decision": "too few votes to decide, ",
}
STYLES: dict[Mark, str] = {"waiting": "dim", "replied": "green", "refused": "bold red"}


class LiveView:
    """An observer of a run that shows where it stands; use it as a context manager.

    Events may come from another thread than the one that opened it, and in any order of clients.

    Args:
        console: Where to.
        recipe: The run's.
        animate: Redraw in place; default: if the console is a terminal that can. Otherwise a
            line per round and per refusal, without control codes and in ASCII.
    """

    def __init__(self, console: Console, recipe: Recipe, *, animate: bool | None = None) -> None:
        self._console = console
        if animate is None:  # FORCE_COLOR makes a pipe a terminal to rich, but it is none
            animate = self._console.is_interactive and self._console.file.isatty()
        self._recipe = recipe
        self._marks = marks_for(self._console)
        self._encoding = self._console.encoding
        self._progress = Progress(recipe.federation.num_rounds)
        self._lock = threading.Lock()
        self._live = Live(
            console=self._console,
            get_renderable=self.render,
            refresh_per_second=REDRAWS_PER_S,
        )
        self._animate = animate

    def __enter__(self) -> Self:
        if self._animate:
            self._live.start(refresh=True)
        else:
            self._console.print(Text(f"{self._headline()}: {self._progress.phase}"), soft_wrap=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take one event in; the next redraw shows it."""
        with self._lock:
            self._progress.take(event)
            lines = [] if self._animate else self._lines(event)
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)

    def render(self) -> RenderableType:
        """The view as it stands."""
        with self._lock:
            grid = Table.grid(padding=(0, 2))
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(overflow="fold")
            grid.add_row("round", self._round())
            if self._progress.clients:
                grid.add_row("clients", self._clients())
            if self._progress.evals:
                grid.add_row("held-out", self._held_out())
            grid.add_row("traffic", self._traffic())
            grid.add_row("time", self._time())
            for refusal in self._progress.refusals:
                line = Text(self._refusal(refusal), "red", no_wrap=True, overflow="ellipsis")
                grid.add_row(_label(refusal), line)
            return Group(Text(f"fedtune  {self._headline()}", style="bold"), grid)

    def _headline(self) -> str:
        return clean(describe(self._recipe), encoding=self._encoding)

    def _round(self) -> RenderableType:
        progress = self._progress
        line = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=progress.num_rounds, completed=progress.done, width=30)
        line.add_row(f"{progress.round} of {progress.num_rounds}", bar, Text(progress.phase))
        return line

    def _clients(self) -> Text:
        progress, marks = self._progress, self._marks
        signs = {"waiting": marks.waiting, "replied": marks.replied, "refused": marks.refused}
        row, total = Text(), len(progress.clients)
        for position, (client, mark) in enumerate(sorted(progress.clients.items())):
            if total <= NUMBERED_CLIENTS:
                row.append(f"{client}{signs[mark]} ", STYLES[mark])
            elif total <= MARKED_CLIENTS:
                gap = " " if position % 10 == 9 else ""
                row.append(signs[mark] + gap, STYLES[mark])
        row.append(f" {progress.count('replied')} of {total} replied")
        if refused := progress.count("refused"):
            row.append(f", {refused} refused", STYLES["refused"])
        if progress.losses:
            row.append(f", training loss {figure(statistics.median(progress.losses.values()))}")
        return row

    def _held_out(self) -> Text:
        losses = self._progress.evals
        line = Text(sparkline(losses, marks=self._marks), style="cyan")
        return line.append(
            f"  {self._progress.leads} {figure(losses[-1])}, base {figure(losses[0])}", "default"
        )

    def _traffic(self) -> str:
        progress = self._progress
        return f"{size(progress.upload_bytes)} up, {size(progress.download_bytes)} down"

    def _time(self) -> str:
        left = duration(self._progress.left_s(), none="not known yet")
        return f"{duration(self._progress.elapsed_s())} gone, left: {left}"

    def _refusal(self, refusal: Refused | Ignored) -> str:
        reason = clean(refusal.reason, encoding=self._encoding)
        when = f"round {refusal.round}, " if refusal.round else ""
        return f"{when}client {refusal.client}: {reason}"

    def _lines(self, event: Event) -> list[str]:
        match event:
            case RunStarted():
                return [self._started()]
            case Refused() | Ignored():
                line = f"{_label(event)}: {self._refusal(event)}"
                return [line.encode("ascii", "replace").decode()]
            case RoundFinished():
                return [self._finished(event)]
        return []

    def _started(self) -> str:
        progress = self._progress
        losses = progress.evals
        base = f"base {progress.leads} {figure(losses[0] if losses else None)}"
        if progress.done:
            now = f"{progress.leads} {figure(losses[-1] if losses else None)}"
            return f"goes on after round {progress.done}/{progress.num_rounds}: {now}, {base}"
        return f"{base}; {progress.num_rounds} rounds to go"

    def _finished(self, event: RoundFinished) -> str:
        progress, losses = self._progress, self._progress.evals
        measured = event.record.eval is not None
        loss = f"no {progress.leads}"
        if measured:
            loss = f"{progress.leads} {figure(losses[-1])} (base {figure(losses[0])})"
        return (
            f"round {progress.round}/{progress.num_rounds}: {loss}, "
            f"{progress.count('replied')} of {len(progress.clients)} replies accepted, "
            f"{_judged(event.record)}"
            f"{self._traffic()}, {self._time()}"
        )


def _judged(record: RoundRecord) -> str:
    return JUDGED.get(outcome_of(record) or "", "").format(by=undone_by(record))


def _label(event: Refused | Ignored) -> str:
    return "refused" if isinstance(event, Refused) else "ignored"

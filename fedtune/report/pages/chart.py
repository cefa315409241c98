"""The loss or reward of a run by round, as SVG without script: on its page, live, as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fedtune.report.pages.render import fill
from fedtune.report.text import figure

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 230, 50, 10, 14, 28
MAX_DOTS = 60  # more, and only the last is marked
LOG_ABOVE = 30.0  # times between the lowest and the highest loss

Points = Sequence[tuple[int, float | None]]


@dataclass(frozen=True)
class _Frame:
    """Where a round and a loss stand in the picture."""

    first: int
    last: int
    low: float
    high: float
    bend: Callable[[float], float]

    def x(self, at: int) -> float:
        part = (at - self.first) / (self.last - self.first)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def y(self, loss: float) -> float:
        part = (self.bend(loss) - self.low) / (self.high - self.low)
        return round(TOP + (1 - part) * (HEIGHT - TOP - BOTTOM), 1)


def loss_chart(points: Points, base: float | None, *, of: str = "loss") -> Markup | None:
    """Draw a held-out figure, with the untrained base as a dashed level.

    Args:
        points: Round and figure; None is one that was not finite, and leaves a gap.
        base: The figure before training.
        of: ``loss``; or ``reward``, whose axis holds 0 and 1, so that a little looks little.

    Returns:
        The picture, or None if no loss is finite.
    """
    known = [(at, loss) for at, loss in points if loss is not None]
    if not known:
        return None
    losses = [loss for _, loss in known] + ([base] if base is not None else [])
    rewards = of == "reward"
    bend = math.log10 if wants_log(losses) and not rewards else float
    shown = [*losses, 0.0, 1.0] if rewards else losses
    low, high = bend(min(shown)), bend(max(shown))
    pad = 0.1 * ((high - low) or 1.0)
    first, last = points[0][0], max(points[-1][0], points[0][0] + 1)
    frame = _Frame(first, last, low - pad, high + pad, bend)
    levels = _decades(losses) if bend is math.log10 else _ticks(frame.low, frame.high)
    (at, loss), stride = known[-1], max(1, math.ceil((last - first) / 10))
    dots = known if len(known) <= MAX_DOTS else known[-1:]
    return fill(
        "chart.svg.jinja",
        width=WIDTH, height=HEIGHT, left=LEFT, right=WIDTH - RIGHT,
        title=f"Held-out {of} from {figure(known[0][1])} to {figure(loss)}",
        levels=[(frame.y(level), figure(level).rstrip("0").rstrip(".")) for level in levels],
        rounds=[(frame.x(i), i) for i in range(first, last + 1, stride)],
        base=None if base is None else (frame.y(base), f"untrained base {figure(base)}"),
        path=_path(points, frame),
        dots=[(frame.x(i), frame.y(one)) for i, one in dots],
        end=(frame.x(at), frame.y(loss), figure(loss)),
    )  # fmt: skip


def wants_log(losses: Sequence[float]) -> bool:
    """Whether losses are so far apart that a linear scale would show one of them alone."""
    return min(losses) > 0 and max(losses) / min(losses) > LOG_ABOVE


def _path(points: Points, frame: _Frame) -> str:
    return "".join(
        f"{'M' if i == 0 or points[i - 1][1] is None else 'L'}{frame.x(at)} {frame.y(loss)}"
        for i, (at, loss) in enumerate(points)
        if loss is not None
    )


def _ticks(low: float, high: float) -> list[float]:
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(size for size in (power, 2 * power, 5 * power, 10 * power) if size >= raw)
    return [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(losses: Sequence[float]) -> list[float]:
    first, last = math.log10(min(losses)), math.log10(max(losses))
    stride = math.ceil((last - first) / 6)
    return [10.0**power for power in range(math.ceil(first), math.floor(last) + 1, stride)]

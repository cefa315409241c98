"""The same aggregate at a part of its length, for a line search along it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from aggregators.geometry import Pair, Point, Step


@dataclass(frozen=True, eq=False)
class _Shorter:
    """A point of product space times a number, module by module as they are asked for."""

    whole: Point
    scale: float

    @property
    def plain(self) -> Tensor:
        return self.scale * self.whole.plain

    def __len__(self) -> int:
        return len(self.whole)

    def pair(self, k: int) -> Pair:
        left, right = self.whole.pair(k)
        return self.scale * left, right


def shorter(change: Tensor | Point | Step, scale: float) -> Tensor | Point | None:
    """A change times a number; None of a step that a dense rule has made itself.

    Such a step is back at the adapter's rank, with what it carries over in it: it has no half.
    """
    if isinstance(change, Step):
        return None
    return scale * change if isinstance(change, Tensor) else _Shorter(change, scale)

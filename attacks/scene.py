"""Attacker knowledge beyond the round's updates: earlier rounds, the adapter, the defence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class LoraModule(Protocol):
    """Which columns of a row are one module's A and B; ``aggregators.geometry.Module`` is one."""

    @property
    def a(self) -> tuple[int, int] | None:
        """Columns [start, stop) of A, row-major (rank, d_in); None where it is not trained."""

    @property
    def b(self) -> tuple[int, int] | None:
        """Columns [start, stop) of B, row-major (d_out, rank); None where it is not trained."""

    @property
    def rank(self) -> int:
        """LoRA's r."""

    @property
    def scale(self) -> float:
        """What BA is multiplied by."""


class LoraColumns(Protocol):
    """The modules of a row; ``aggregators.geometry.Factors`` is one."""

    @property
    def modules(self) -> Sequence[LoraModule]:
        """All of them."""


class Span(Protocol):
    """The server's rule on rows that are linear combinations of known points.

    The points are the honest updates in the order of the view, then the directions that were asked
    for, then what only the server adds (a momentum, a centre). An attacker's row is a row of
    coefficients over the first ``width`` of them.

    In product geometry a row's product is not quite linear in the row: the points' inner products
    are exact, those of a combination are exact up to the product of two steps.
    """

    @property
    def gram(self) -> Tensor:
        """Inner products of all points, as moves from the anchor, shape (p, p), float64."""

    @property
    def width(self) -> int:
        """Points that an attacker's row may be made of: honest ones and directions."""

    @property
    def quick(self) -> bool:
        """Whether ``weigh`` is work on small matrices alone, not on whole rows."""

    def weigh(self, coefficients: Tensor) -> Tensor:
        """Return the server's aggregate as coefficients over all points, shape (p,).

        Args:
            coefficients: Of each attacker's row, shape (num_attackers, width), float64.

        Returns:
            Coefficients of the aggregate. Where the server has nothing to combine, or refuses to:
            those of the honest mean, since such rows move the aggregate nowhere.
        """

    def confirm(self, coefficients: Tensor) -> Tensor:
        """Like ``weigh``, but form and screen the rows, with exact inner products."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The budget of a search against the server's rule.

    Attributes:
        evaluations: How often the rule is tried, over all restarts, in each round.
        restarts: From how many starts the search goes on.
    """

    evaluations: int = 300
    restarts: int = 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Attacker knowledge beside the round's updates; every default means "nothing known".

    Attributes:
        round_: Counted from 1.
        last: What the last outer step added to the anchor, shape (d,); None in the first round.
        memory: State that the attackers keep from round to round, saved with the run. An attack
            may read and write it, tensors only, and keeps no other state.
        anchor: The adapter that the round began with, shape (d,).
        factors: Which columns are A and B; None outside LoRA.
        defence: From crafted rows, shape (num_attackers, d), to the distance by which they move
            the server's step away from the step on the honest mean: a finite float >= 0, greater
            is worse for the server, 0 for rows that the server refuses. It is the rule itself,
            with its mixing and geometry, on the honest updates and the crafted ones.
        span: From directions, shape (k, d), to the rule on combinations of the honest updates and
            these; None where attackers do not know the rule.
        search: The search budget; None: no search, the options are used as they are.
        loss: An update's loss on the attackers' own rows, once the anchor is moved by it, shape
            (d,); None where they have no model to try it on.
        fewer: Ranks that clients hold, lowest first, in a run of mixed ranks; empty otherwise.
    """

    round_: int = 1
    last: Tensor | None = None
    memory: dict[str, Tensor] = field(default_factory=dict)
    anchor: Tensor | None = None
    factors: LoraColumns | None = None
    defence: Callable[[Tensor], float] | None = None
    span: Callable[[Tensor], Span] | None = None
    search: Search | None = None
    loss: Callable[[Tensor], float] | None = None
    fewer: tuple[int, ...] = ()

"""What liars know beyond the updates of the round: the past, the adapter, the defence."""

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
        """What the server would make of it, as coefficients over all points, shape (p,).

        Args:
            coefficients: Of each attacker's row, shape (num_attackers, width), float64.

        Returns:
            Those of the aggregate. Where the server has nothing to combine, or refuses to: those
            of the honest mean, from which such a lie moves nothing away.
        """

    def confirm(self, coefficients: Tensor) -> Tensor:
        """Likewise, with the rows made and screened, and their own exact inner products."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How hard the attackers look for the worst that the server's rule lets through.

    Attributes:
        evaluations: How often the rule is tried, over all restarts, in each round.
        restarts: From how many starts the search goes on.
    """

    evaluations: int = 300
    restarts: int = 3


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is known beside the round's updates. Everything has a default that means "nothing".

    Attributes:
        round_: Counted from 1.
        last: What the last outer step added to the anchor, shape (d,); None in the first round.
        memory: What the liars keep from round to round. An attack may read and write it, tensors
            alone, and must find there all that it remembers: it is saved with the run.
        anchor: The adapter that the round began with, shape (d,).
        factors: Which columns are A and B; None outside LoRA.
        defence: How far crafted rows, shape (num_attackers, d), move what the server would do away
            from what it would do with the honest mean: a float >= 0, greater is worse for the
            server, and infinite never (a lie that is refused moves nothing: 0). It is the rule
            itself, with its mixing and geometry, on the honest updates and the crafted ones.
        span: From directions, shape (k, d), to the rule on combinations of the honest updates and
            these; None where attackers do not know the rule.
        search: How hard they look; None: they send what their options say.
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

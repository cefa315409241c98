"""Min-max for a server that measures distances between products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from attacks.attack import Attack, Option
from attacks.lora.columns import ROUNDING, Adapter, adapter, need_rows
from attacks.lora.factoring import STRETCH, factor
from attacks.scene import Scene
from attacks.statistics import mean, repeat
from attacks.view import check_view

if TYPE_CHECKING:
    from torch import Tensor

_DIRECTIONS = ("unit", "sign", "std")
_FACTOR = 1.25
_STEPS = 20
_HALVINGS = 4
_SLACK = 1e-9  # relative, of squared distances: rounding of the sums


def min_max_product(
    honest: Tensor,
    *,
    num_attackers: int,
    scene: Scene | None = None,
    direction: str = "unit",
    max_stretch: float = 2.7,
) -> Tensor:
    """Send factors of ``mu + gamma * p``, no further from any product than two honest ones are.

    mu is the mean of the changes P_i = s ((B + dB_i)(A + dA_i) - B A), over all modules; p is
    ``-mu / |mu|``, ``-sign(mu)`` or ``-sigma`` (ddof 1) entry by entry. gamma is as large as
    ``max_i |m - P_i| <= max_ij |P_i - P_j|`` allows, plain columns counted along.

    The bound is held by m as it is sent: cut to rank r, written with the A nearest to the anchor's,
    and rounded to the dtype. The cut takes some of p away and adds a further error, so the
    gamma of the uncut target is only where the search starts: it goes up by a quarter while the
    sent row is feasible, else down, and is then refined by bisection. Feasible gammas need not be
    an interval after a cut; the one found is feasible, the largest of those tried.

    Memory is d_out * d_in * h float64 values, one module at a time. Time is a dense SVD per module
    for each of 6 to 26 gammas.

    Args:
        honest: The updates the attackers see, shape (h, d) with h >= 2, floating point.
        num_attackers: How many rows to craft.
        scene: With ``factors`` and ``anchor``.
        direction: p: "unit", "sign" or "std".
        max_stretch: How far A's row space may turn from the anchor's, as 1 / cos of the largest
            angle. The server refuses beyond a bound.

    Returns:
        The crafted rows, shape (num_attackers, d), dtype and device of ``honest``, all the same;
        plain columns at the honest mean.

    Raises:
        ValueError: If fewer than two updates are visible, a view is malformed, the direction is
            unknown or of length 0, the cut mean itself is not feasible, the scene lacks the
            factors or the anchor, a module has one factor alone, or the anchor's A has not full
            rank.

    Source:
        Shejwalkar, Houmansadr 2021 (Min-Max), on products instead of coordinates,
        https://www.ndss-symposium.org/ndss-paper/manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses-for-federated-learning/
    """
    check_view(honest, num_attackers=num_attackers)
    if direction not in _DIRECTIONS:
        raise ValueError(
            f"min_max_product.direction needs one of {', '.join(_DIRECTIONS)}: got {direction!r}"
        )
    known = adapter("min_max_product", scene, honest)
    need_rows("min_max_product", honest)
    search = _Search(known, honest, direction, max_stretch)
    return repeat(_largest(search), like=honest, times=num_attackers)


@dataclass
class _Search:
    """What every gamma is tried on: the honest rows, and how far apart their products are."""

    known: Adapter
    honest: Tensor
    direction: str
    max_stretch: float

    def __post_init__(self) -> None:
        """Measure the honest products once: two numbers per client, one per pair."""
        h = len(self.honest)
        self.rows, self.mu = self.honest.double(), mean(self.honest)
        pairs = torch.zeros(h, h, dtype=torch.float64)
        slopes = torch.zeros(h, dtype=torch.float64)
        reach = torch.zeros(h, dtype=torch.float64)
        size = scale = 0.0
        flat = self.rows[:, self.known.plain]
        pairs += torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist").square().cpu()
        reach += (flat - flat.mean(dim=0)).square().sum(dim=1).cpu()
        for block in self.known.blocks:
            changes = block.changes(self.rows, self.known.anchor)
            centred = (changes - changes.mean(dim=0)).flatten(1)
            toward = self._toward(changes).flatten()
            gram = (centred @ centred.T).cpu()
            squares = gram.diagonal()
            pairs += squares[:, None] + squares[None, :] - 2 * gram
            reach += squares
            slopes -= (centred @ toward).cpu()
            size += float(toward.square().sum())
            scale += float(changes.norm())
        if size <= (ROUNDING * scale) ** 2:
            raise ValueError(
                f"min_max_product needs a direction to go: got {self.direction!r} of length "
                f"{size**0.5:.3g}, no product moves or all move alike; name another direction"
            )
        self.bound = float(pairs.max())
        # |mu - P_i|² + 2 gamma <p, mu - P_i> + gamma² |p|² = bound, its greater root
        roots = (slopes.square() + size * (self.bound - reach).clamp(min=0)).sqrt() - slopes
        self.start = float(roots.min()) / size

    def _toward(self, changes: Tensor) -> Tensor:
        """Direction p of one module, up to the length of mu over all modules for "unit"."""
        if self.direction == "std":
            return -changes.std(dim=0, correction=1)
        middle = changes.mean(dim=0)
        return -middle.sign() if self.direction == "sign" else -middle

    def row(self, gamma: float) -> Tensor:
        """The row that is sent at gamma, in the dtype of the honest ones, shape (d,)."""
        crafted = self.mu.clone()
        for block in self.known.blocks:
            changes = block.changes(self.rows, self.known.anchor)
            target = changes.mean(dim=0) + gamma * self._toward(changes)
            b, a = block.views(self.known.anchor)
            near = factor(
                block.product(self.known.anchor) + target,
                a,
                scale=block.scale,
                max_stretch=self.max_stretch,
                rounding=torch.finfo(self.honest.dtype).eps,
            )
            block.write(crafted, near[0] - b, near[1] - a)
        return crafted.to(self.honest.dtype)

    def feasible(self, row: Tensor) -> bool:
        """Whether no honest product is further from the row's than two honest ones are."""
        sent = row.double()
        plain = self.known.plain
        far = (self.rows[:, plain] - sent[plain]).square().sum(dim=1)
        for block in self.known.blocks:
            own = block.change(sent, self.known.anchor)
            changes = block.changes(self.rows, self.known.anchor)
            far += (changes - own).flatten(1).square().sum(dim=1)
        return float(far.max()) <= self.bound * (1 + _SLACK)


def _largest(search: _Search) -> Tensor:
    """The row of the largest feasible gamma of those tried."""

    def attempt(gamma: float) -> Tensor | None:
        row = search.row(gamma)
        return row if bool(row.isfinite().all()) and search.feasible(row) else None

    low, best, high = _bracket(attempt, search.start)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        found = attempt(middle)
        if found is None:
            high = middle
        else:
            low, best = middle, found
    return best


def _bracket(
    attempt: Callable[[float], Tensor | None], start: float
) -> tuple[float, Tensor, float]:
    """A feasible gamma with its row, and a greater one that is not."""
    gamma, best = start, attempt(start)
    if best is not None:
        for _ in range(_STEPS):
            further = attempt(gamma * _FACTOR)
            if further is None:
                break
            gamma, best = gamma * _FACTOR, further
        return gamma, best, gamma * _FACTOR
    for _ in range(_STEPS):
        gamma /= _FACTOR
        best = attempt(gamma)
        if best is not None:
            return gamma, best, gamma * _FACTOR
    best = attempt(0.0)
    if best is None:
        raise ValueError(
            "min_max_product needs a mean product that, cut to rank r, is as near to every honest "
            "one as two of them are: got one further off; the honest products lie too close "
            "together, or max_stretch is too small; use alie_product"
        )
    return 0.0, best, gamma


ATTACK = Attack(
    name="min_max_product",
    summary="min_max on the products BA, factored back in the anchor's gauge",
    source=(
        "Shejwalkar, Houmansadr 2021, on products, https://www.ndss-symposium.org/ndss-paper/"
        "manipulating-the-byzantine-optimizing-model-poisoning-attacks-and-defenses"
        "-for-federated-learning/"
    ),
    level="update",
    goal="harm",
    knowledge=("fellows", "all"),
    options={
        "direction": Option(
            kind=str, default="unit", choices=_DIRECTIONS, summary="which way from the mean"
        ),
        "max_stretch": STRETCH,
    },
    takes=("scene",),
    needs=("factors",),
    function=min_max_product,
)

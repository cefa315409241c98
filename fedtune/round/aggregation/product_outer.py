"""The outer step in product space: momentum on what the model feels, kept in low rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from aggregators.geometry import (
    Factors,
    LowRank,
    Pair,
    Point,
    Step,
    stacked,
    step_by_module,
    truncate,
)
from fedtune.recipe import Recipe
from fedtune.round.aggregation.named_tensors import pack, unpack

# Of the adapter's rank: a momentum of rank r alone would cut what the next update brings.
MOMENTUM_RANKS = 2


class ProductOuter:
    """Holds the anchor, float32, and moves the products s BA that its factors stand for.

    With D the aggregate of s(B_iA_i - BA), M the momentum and T_k the best approximation of rank k:

    - ``fedavg``: s BA <- T_r(s BA + D).
    - ``nesterov``: M <- T_2r(mu M + D), then s BA <- T_r(s BA + lr (D + mu M)): torch's form.

    Where nobody has moved A these are FedAvg and torch's SGD on B. Adam steps coordinates, and has
    no meaning here. What T_r cuts off is reported as a share of energy, and dropped, or, with
    ``residual: carry``, kept at rank r and added to the next step. The factors are those nearest to
    the ones before: see ``aggregators.geometry.step``.

    Args:
        recipe: Sections outer and aggregator.
        anchor: The whole adapter, a row of shape (d,).
        factors: Its description.

    Source:
        Bai et al. 2024 (FlexLoRA: the mean of products, by SVD), https://arxiv.org/abs/2402.11505;
        Douillard et al. 2023 (DiLoCo's outer step), https://arxiv.org/abs/2311.08105
    """

    def __init__(self, recipe: Recipe, anchor: Tensor, factors: Factors) -> None:
        self._lr, self._mu = recipe.outer.rates
        self._rank = recipe.lora.highest_rank
        self._carries = recipe.aggregator.residual == "carry"
        self._anchor = anchor.detach().to(torch.float32).clone()
        self._factors = factors
        self._momentum: LowRank | None = None
        self._residual: LowRank | None = None

    @property
    def anchor(self) -> Tensor:
        """A copy of the global adapter, shape (d,), float32."""
        return self._anchor.clone()

    @property
    def residual(self) -> LowRank | None:
        """What the last step could not hold and the next one will add."""
        return self._residual

    @property
    def residual_rank(self) -> int:
        """Most rank of the residual that is kept."""
        return self._rank if self._carries else 0

    def step(self, change: Point | Step) -> dict[str, float]:
        """Move the anchor's products along the aggregate.

        Args:
            change: The aggregate, or the step itself where a dense rule has made it.

        Returns:
            ``discarded``, the share of the new products' energy that rank r cuts off, and
            ``discarded_of_change``, the same of the step's own energy.

        Raises:
            ValueError: If the step leaves the range of float32; then nothing moves.
        """
        momentum = self._momentum
        if not isinstance(change, Step):
            change, momentum = self._move(change)
        if not torch.isfinite(change.row).all():
            raise ValueError("the step leaves the range of float32; the anchor stays")
        self._anchor, self._momentum = change.row, momentum
        self._residual = change.residual if self._carries else None
        return {
            "discarded": change.discarded,
            "discarded_of_change": change.discarded_of_change,
        }

    def _move(self, change: Point) -> tuple[Step, LowRank | None]:
        """Step along a change, one module after the other, and the momentum that this leaves."""
        kept: list[Pair] = []

        def moves() -> Iterator[Pair]:
            for k in range(len(change)):
                pair = change.pair(k)
                if self._mu:
                    kept.append(self._averaged(pair, k))
                    pair = stacked([pair, kept[-1]], [self._lr, self._lr * self._mu])
                elif self._lr != 1:
                    pair = stacked([pair], [self._lr])
                yield (
                    pair
                    if self._residual is None
                    else stacked([pair, self._residual.pair(k)], [1.0, 1.0])
                )

        before = 0.0 if self._momentum is None else self._momentum.plain
        averaged = change.plain + self._mu * before
        plain = self._lr * (change.plain + self._mu * averaged)
        made = step_by_module(
            self._anchor, self._factors, moves(), plain, residual_rank=self.residual_rank
        )
        return made, LowRank(tuple(kept), averaged) if self._mu else None

    def _averaged(self, pair: Pair, k: int) -> Pair:
        """The momentum of one module after this change, at its rank."""
        if self._momentum is not None:
            pair = stacked([self._momentum.pair(k), pair], [self._mu, 1.0])
        point = LowRank((pair,), pair[0].new_zeros(0))
        return truncate(point, MOMENTUM_RANKS * self._factors.modules[k].rank)[0].pair(0)

    def state_dict(self) -> dict[str, Tensor]:
        """The anchor, copied, momentum and residual."""
        tensors = {"anchor": self.anchor}
        for name, point in (("momentum", self._momentum), ("residual", self._residual)):
            if point is not None:
                tensors |= pack(name, point)
        return tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state dict: what it lacks beside the anchor is forgotten."""
        self._anchor = state["anchor"].detach().to(torch.float32).clone()
        self._momentum, self._residual = unpack("momentum", state), unpack("residual", state)

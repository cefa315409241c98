"""The outer optimizer: torch.optim on the flat anchor, with minus the aggregate as gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedtune.recipe import Outer


class OuterOptimizer:
    """Holds the anchor, float32, and steps it once per round.

    - ``fedavg``: SGD at lr 1: the anchor moves by the aggregate, to the bit. McMahan et al. 2017,
      https://arxiv.org/abs/1602.05629
    - ``nesterov``: ``torch.optim.SGD(nesterov=True)``, torch's form, as in DiLoCo. Its steady
      gain is lr / (1 - momentum): a constant aggregate ends up applied that many times, and a
      poisoned one too. Few rounds want a momentum of at most 0.5. Douillard et al. 2023,
      https://arxiv.org/abs/2311.08105
    - ``adam``: FedAdam with torch's bias correction. Reddi et al. 2021,
      https://arxiv.org/abs/2003.00295
    """

    def __init__(self, outer: Outer, anchor: Tensor) -> None:
        self._anchor = torch.nn.Parameter(anchor.to(torch.float32).clone())
        self._optimizer = _make(outer, self._anchor)

    @property
    def anchor(self) -> Tensor:
        """A copy of the global adapter, shape (d,), float32."""
        return self._anchor.detach().clone()

    def step(self, aggregate: Tensor) -> None:
        """Move the anchor along the aggregate of the deltas, shape (d,).

        Raises:
            ValueError: If the aggregate has another shape, or it or the anchor that it leads to
                is not finite; then nothing moves.
        """
        if aggregate.shape != self._anchor.shape:
            raise ValueError(f"needs {tuple(self._anchor.shape)}; got {tuple(aggregate.shape)}")
        if not torch.isfinite(aggregate).all():
            raise ValueError("the aggregate is not finite; the anchor stays")
        anchor, state = self.anchor, self.state()
        self._anchor.grad = -aggregate.to(torch.float32)
        self._optimizer.step()
        self._anchor.grad = None
        if not all(torch.isfinite(t).all() for t in (self._anchor, *self.state().values())):
            self._anchor.data.copy_(anchor)
            self._optimizer.load_state_dict(self._with(state))
            raise ValueError("the step leaves the range of float32; the anchor stays")

    def state(self) -> dict[str, Tensor]:
        """The optimizer's tensors by name, copied: what a checkpoint holds beside the anchor."""
        state = self._optimizer.state_dict()["state"].get(0, {})
        return {
            name: torch.as_tensor(value).detach().clone()
            for name, value in state.items()
            if value is not None
        }

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's tensors."""
        self._optimizer.load_state_dict(self._with(state))

    def _with(self, state: dict[str, Tensor]) -> dict[str, Any]:
        groups = self._optimizer.state_dict()["param_groups"]
        return {"state": {0: dict(state)} if state else {}, "param_groups": groups}


def _make(outer: Outer, anchor: torch.nn.Parameter) -> torch.optim.Optimizer:
    if outer.name == "fedavg":
        return torch.optim.SGD([anchor], lr=1.0)
    if outer.name == "nesterov":
        lr = 0.7 if outer.lr is None else outer.lr
        momentum = 0.5 if outer.momentum is None else outer.momentum
        return torch.optim.SGD([anchor], lr=lr, momentum=momentum, nesterov=momentum > 0)
    return torch.optim.Adam(
        [anchor],
        lr=1e-3 if outer.lr is None else outer.lr,
        betas=outer.betas or (0.9, 0.99),
        eps=1e-8 if outer.eps is None else outer.eps,
    )

"""The outer optimizer: torch.optim on the flat anchor, with minus the aggregate as gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from aggregators.geometry import Renewed
from fedtune.adapters.part import Part
from fedtune.recipe import Outer
from fedtune.round.aggregation.named_tensors import named


class OuterOptimizer:
    """Holds the anchor, float32, and steps a part of it once per round.

    Each part has a state of its own: with one for all, the momentum of B would move B in the rounds
    that train A.

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
        self._outer = outer
        self._anchor = anchor.detach().to(torch.float32).clone()
        self._states: dict[str, dict[str, Tensor]] = {}

    @property
    def anchor(self) -> Tensor:
        """A copy of the global adapter, shape (d,), float32."""
        return self._anchor.clone()

    def step(self, aggregate: Tensor, part: Part | None = None) -> None:
        """Move a part of the anchor along the aggregate of its deltas; the rest stays, to the bit.

        Args:
            aggregate: Shape (d,), of the part's columns.
            part: What the round has trained; None: the whole anchor, under the name ``both``.

        Raises:
            ValueError: If the aggregate has another shape, or it or the anchor that it leads to
                is not finite; then nothing moves.
        """
        columns = self._anchor if part is None else part.take(self._anchor)
        if aggregate.shape != columns.shape:
            raise ValueError(f"needs {tuple(columns.shape)}; got {tuple(aggregate.shape)}")
        if not torch.isfinite(aggregate).all():
            raise ValueError("the aggregate is not finite; the anchor stays")
        name = "both" if part is None else part.name
        columns, state = _step(self._outer, columns, aggregate, self._states.get(name, {}))
        if not all(torch.isfinite(tensor).all() for tensor in (columns, *state.values())):
            raise ValueError("the step leaves the range of float32; the anchor stays")
        self._anchor = columns if part is None else part.put(columns, self._anchor)
        self._states[name] = state

    def turn(self, renewed: Renewed) -> None:
        """Go on in another gauge of the same products: the anchor, and what momentum points to."""
        self._anchor = renewed.row.to(torch.float32)
        for name, tensor in self._states.get("both", {}).items():
            if tensor.shape == renewed.row.shape:
                self._states["both"][name] = renewed.turn(tensor)

    def state_dict(self) -> dict[str, Tensor]:
        """The anchor and the optimizers' tensors, copied.

        Those are named by part and torch's own name, such as ``b/momentum_buffer``.
        """
        tensors = {"anchor": self.anchor}
        for part, state in self._states.items():
            tensors |= named(part, {name: tensor.clone() for name, tensor in state.items()})
        return tensors

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a state dict: what it lacks beside the anchor is forgotten."""
        self._anchor = state["anchor"].detach().to(torch.float32).clone()
        self._states = {}
        for path, tensor in state.items():
            if path == "anchor":
                continue
            part, name = path.split("/")
            self._states.setdefault(part, {})[name] = tensor.clone()


def _step(
    outer: Outer, columns: Tensor, aggregate: Tensor, state: dict[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """One step of torch's optimizer; columns and state are read, and new ones returned."""
    parameter = torch.nn.Parameter(columns.clone())
    optimizer = _make(outer, parameter)
    if state:
        copied = {name: tensor.clone() for name, tensor in state.items()}
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {0: copied}, "param_groups": groups})
    parameter.grad = -aggregate.to(torch.float32)
    optimizer.step()
    after = optimizer.state_dict()["state"].get(0, {})
    return parameter.detach(), {
        name: torch.as_tensor(value) for name, value in after.items() if value is not None
    }


def _make(outer: Outer, anchor: torch.nn.Parameter) -> torch.optim.Optimizer:
    lr, momentum = outer.rates
    if outer.name == "adam":
        assert outer.betas is not None
        assert outer.eps is not None
        return torch.optim.Adam([anchor], lr=lr, betas=outer.betas, eps=outer.eps)
    return torch.optim.SGD([anchor], lr=lr, momentum=momentum, nesterov=momentum > 0)

"""A rule's state from one round to the next: explicit tensors, in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from aggregators.engine.rows import Rows, empty_row
from aggregators.engine.rule import Rule
from aggregators.engine.screening import check_point

if TYPE_CHECKING:
    from torch import Tensor

_CARRIED = {"": (), "center": ("center",), "history": ("history", "clients")}


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """The state of the last round, and the clients of this one.

    Attributes:
        state: Of the last round's Aggregation; empty in the first.
        clients: A lasting number for each row; rules with a history find their row by it.
            None: the rows are the clients 0 to n-1.
    """

    state: Mapping[str, Tensor] = field(default_factory=dict)
    clients: Sequence[int] | None = None

    def after(self, rule: Rule, rows: Rows, aggregate: Tensor) -> dict[str, Tensor]:
        """The state to carry on, once the aggregate is known: a history in float64, on the CPU."""
        if rule.memory == "center":
            return {"center": aggregate.clone()}
        if rule.memory != "history":
            return {}
        known = dict(zip(self._known(), self.state.get("history", ()), strict=True))
        for client, row in zip(self.senders(len(rows)), rows, strict=True):
            # In float64: two rows of 3e38 sum to inf in float32. On the CPU, with absent clients.
            sent = row.to("cpu", torch.float64, copy=True)
            known[client] = sent + known[client].cpu() if client in known else sent
        order = sorted(known)
        return {
            "history": torch.stack([known[client].to("cpu", torch.float64) for client in order]),
            "clients": torch.tensor(order, dtype=torch.int64),
        }

    def past(self, client: int, like: Tensor) -> Tensor:
        """A client's sum of earlier updates; zeros for a new client."""
        known = self._known()
        if client not in known:
            return torch.zeros_like(like)
        return self.state["history"][known.index(client)].to(like.device)

    def senders(self, num_rows: int) -> list[int]:
        """The number of each row's client."""
        return list(range(num_rows)) if self.clients is None else [int(c) for c in self.clients]

    def _known(self) -> list[int]:
        return [int(client) for client in self.state.get("clients", torch.empty(0)).tolist()]


def recall(rule: Rule, memory: Memory, rows: Rows) -> list[Tensor]:
    """Take the rule's memory as extra points, each of shape (d,), on the rows' device.

    Raises:
        ValueError: If the state is not one that the rule returned for rows like these.
    """
    for name in memory.state:
        if name not in _CARRIED[rule.memory]:
            carries = ", ".join(_CARRIED[rule.memory]) or "none"
            raise ValueError(f"{rule.name} carries the state {carries}: got {name!r}; leave it out")
    if rule.memory == "center":
        center = memory.state.get("center")
        return [] if center is None else [check_point(center, rows, rule.name, "center")]
    if rule.memory != "history":
        return []
    _check_history(rule, memory, rows)
    like = empty_row(rows)
    return [memory.past(client, like) for client in memory.senders(len(rows))]


def _check_history(rule: Rule, memory: Memory, rows: Rows) -> None:
    if len(set(memory.senders(len(rows)))) != len(rows):
        raise ValueError(
            f"{rule.name} needs one number per client: got {memory.senders(len(rows))} for "
            f"{len(rows)} rows; hand in clients="
        )
    history, known = memory.state.get("history"), memory.state.get("clients")
    if history is None and known is None:
        return
    if history is None or known is None or len(history) != len(known) or history.ndim != 2:
        raise ValueError(
            f"{rule.name} needs history and clients of one length; hand in the state of the last "
            "round"
        )
    for past in history:
        check_point(past, rows, rule.name, "history")

"""The server's rule as white-box attackers search it: on the Gram of linear combinations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from aggregators import Gram
from fedtune.round.aggregation.points import Combined, Deltas
from fedtune.round.defence import momentum
from fedtune.round.hooks import RoundView
from fedtune.simulation.adversary import ThreatView
from fedtune.simulation.training_ahead import Tools
from fedtune.simulation.white_box import WhiteBox

Judge = Callable[[Gram], Tensor]
"""From the clients' points to weights of all points."""
Send = Callable[[Tensor], Tensor]
"""From the attackers' coefficients to the aggregate's over all points."""


@dataclass(frozen=True, eq=False)
class ServerSpan:
    """An ``attacks.Span`` on the real plan, mixings, geometry, momentum and f accounting included.

    Attributes:
        points: Honest updates, directions, and what else clients' points are made of; then the
            rule's own, and the origin.
        fixed: What of each client's point no attacker chooses, over the points, shape (n, p).
        free: How much of each client's point is an attacker's row, shape (n, num_attackers).
        width: Honest updates and directions: what rows may be made of.
        num_honest: Updates of the view: the first points.
        judge: The chain on a Gram; None for rules that need the columns.
        send: The whole way, rows and all.
    """

    points: Gram
    fixed: Tensor
    free: Tensor
    width: int
    num_honest: int
    judge: Judge | None
    send: Send

    @property
    def gram(self) -> Tensor:
        """Inner products of all points about the origin."""
        origin = self.points.centred[-1]
        about = self.points.centred - origin[:, None] - origin[None, :] + origin[-1]
        return about[:-1, :-1]

    @property
    def quick(self) -> bool:
        """Whether the rule needs the Gram alone."""
        return self.judge is not None

    def weigh(self, coefficients: Tensor) -> Tensor:
        """The aggregate's coefficients by the rule on the Gram of the combinations."""
        if self.judge is None:
            return self.confirm(coefficients)
        mix = self.mix(coefficients)
        try:
            weights = self.judge(self.points.mixed(mix))
        except ValueError:
            return self.honest_mean()  # such lies stop the run with an error, and move nothing
        return torch.cat([mix.T @ weights[: len(mix)], weights[len(mix) :]])

    def confirm(self, coefficients: Tensor) -> Tensor:
        """Likewise, with the rows made, screened, and brought to the rule as replies are."""
        return self.send(coefficients)

    def mix(self, coefficients: Tensor) -> Tensor:
        """Every client's point, as the rule sees it, over the points, shape (n, p)."""
        mix = self.fixed.clone()
        mix[:, : self.width] += self.free @ coefficients.to(torch.float64)
        return mix

    def honest_mean(self) -> Tensor:
        """The coefficients of the mean of the view."""
        mean = torch.zeros(len(self.points.centred) - 1, dtype=torch.float64)
        mean[: self.num_honest] = 1 / self.num_honest
        return mean


def view_of(view: RoundView, tools: Tools | None) -> ThreatView:
    """What simulated attackers know of a round, the rule itself included."""
    white_box = WhiteBox(
        view.recipe, view.geometry, view.sent, view.part, view.spool, view.round_, view.f
    )
    known = ThreatView(view.sent, view.round_, tools=tools)
    # A rule that compares with the server's own update cannot be tried without its rows.
    if white_box.recipe.aggregator.takes_reference:
        return known
    return replace(known, defence=white_box.harm, span=partial(span_of, white_box))


def span_of(
    box: WhiteBox,
    honest: Mapping[int, Tensor],
    attackers: Sequence[int],
    directions: Tensor,
    cut: Callable[[Tensor], dict[int, Tensor]],
) -> ServerSpan:
    """The round's rule on combinations of the honest updates and of directions.

    Args:
        box: The server's side of the round.
        honest: The view: honest updates by client, at the full rank.
        attackers: Whose rows are chosen.
        directions: Further rows, shape (k, d).
        cut: From the attackers' rows at the full rank to what each sends at its own.
    """
    taken = {client: box.other(client) for client in box.spool.clients if client not in attackers}
    clients = sorted([*(c for c, row in taken.items() if row is not None), *attackers])
    rest = [c for c in clients if c not in honest and c not in attackers]
    kept = {c: past for c in clients if (past := _past(box, c)) is not None}
    whole, aims = box.sent.whole, directions.to(torch.float32)
    points = [
        *((row, whole) if taken.get(c) is None else (taken[c], box.sent.to(c))
          for c, row in honest.items()),
        *((aim, whole) for aim in aims),
        *((taken[c], box.sent.to(c)) for c in rest),
        *((past, box.sent.to(c)) for c, past in kept.items()),
    ]  # fmt: skip
    deltas = Deltas([row for row, _ in points], [each for _, each in points], whole)
    terms = box.terms(clients)
    seen = box.geometry.gram(deltas, terms)
    width, order = len(honest) + len(aims), list(honest)
    fixed = torch.zeros(len(clients), len(points), dtype=torch.float64)
    free = torch.zeros(len(clients), len(attackers), dtype=torch.float64)
    for i, client in enumerate(clients):
        now, before = _shares(box, client)
        if client in kept:
            fixed[i, width + len(rest) + list(kept).index(client)] = before
        if client in attackers:
            free[i, list(attackers).index(client)] = now
        else:
            fixed[i, order.index(client) if client in honest else width + rest.index(client)] = now
    basis = torch.stack([*honest.values(), *aims]).to(torch.float64)

    def judge(given: Gram) -> Tensor:
        return box.geometry.rule.weights_of(given, terms)

    def send(coefficients: Tensor) -> Tensor:
        lies = cut((coefficients.to(torch.float64) @ basis).to(torch.float32))
        made = box.combined(lies)
        if made is None:
            return span.honest_mean()
        if span.judge is None:
            return _projected(box.geometry.inner(deltas, made[1].change), span)
        there = [clients.index(client) for client in made[0]]
        return _read(made[1], span.mix(coefficients)[there], len(seen.centred) - 1)

    on_gram = box.recipe.aggregator.plan().last.rule.kind == "gram"
    span = ServerSpan(seen, fixed, free, width, len(honest), judge if on_gram else None, send)
    return span


def _past(box: WhiteBox, client: int) -> Tensor | None:
    """The client's momentum of the rounds before, where the server keeps one."""
    if box.recipe.defence.momentum is None:
        return None
    return box.geometry.rule.state.get(f"{momentum.PREFIX}{box.part.name}/{client}")


def _shares(box: WhiteBox, client: int) -> tuple[float, float]:
    """How much of a client's point is its row of this round, and how much its momentum."""
    beta = box.recipe.defence.momentum
    if beta is None:
        return 1.0, 0.0
    name = f"{momentum.PREFIX}{box.part.name}/{client}/rounds"
    unbiased = 1 - beta ** (int(box.geometry.rule.state.get(name, 0)) + 1)
    return (1 - beta) / unbiased, beta / unbiased


def _read(combined: Combined[Any], mix: Tensor, num_points: int) -> Tensor:
    """The aggregate over the points, from its weights; what is left of one is the rule's centre."""
    weights = torch.tensor(combined.weights, dtype=torch.float64)
    aggregate = torch.zeros(num_points, dtype=torch.float64)
    aggregate[: mix.shape[1]] = mix.T @ weights
    if num_points > mix.shape[1]:
        aggregate[mix.shape[1]] = 1 - weights.sum()
    return aggregate


def _projected(towards: Tensor, span: ServerSpan) -> Tensor:
    """The nearest combination of the points to an aggregate that is made by columns.

    Args:
        towards: The aggregate's inner products with the clients' points, which stand first.
        span: Of the round.
    """
    gram, n = span.gram, len(towards)
    found = torch.zeros(len(gram), dtype=torch.float64)
    solved = torch.linalg.lstsq(gram[:n, :n], towards[:, None], driver="gelsd").solution
    found[:n] = solved[:, 0]
    return found

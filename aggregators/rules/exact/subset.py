"""Shared parts of rules that keep n - f of the n updates: the search limit, the average."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from aggregators.engine.gram import Gram
from aggregators.engine.rule import Combination, Facts


class Search:
    """Counts the nodes of a search that may take exponential time, and refuses beyond a limit.

    An answer after the limit would be a guess, so there is none.
    """

    def __init__(self, rule: str, max_nodes: int, num_clients: int, f: int) -> None:
        """Start at zero nodes, for one call of a rule."""
        self.rule, self.max_nodes = rule, max_nodes
        self.num_clients, self.f = num_clients, f
        self.nodes = 0

    def spend(self) -> None:
        """Count one node.

        Raises:
            ValueError: If the limit is passed.
        """
        self.nodes += 1
        if self.nodes > self.max_nodes:
            raise ValueError(
                f"{self.rule} needs an exact search of at most max_nodes={self.max_nodes} nodes: "
                f"got node {self.nodes} at n={self.num_clients}, f={self.f}, and no proven "
                "answer; raise max_nodes, lower f, or take another rule"
            )


def average_of(gram: Gram, selected: Sequence[int], facts: Facts) -> Combination:
    """Weigh the selected clients alike, and report them as ``selected``, lowest index first."""
    weights = torch.zeros(gram.num_clients + gram.num_extra, dtype=torch.float64)
    weights[list(selected)] = 1 / len(selected)
    return Combination(weights, {"selected": [float(i) for i in sorted(selected)], **facts})

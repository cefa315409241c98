"""What the server does with rows of its own: an update to compare with, a trial of the replies."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fedtune.adapters.ranks import widen
from fedtune.federation.broadcast import Broadcast
from fedtune.federation.screening.spool import Spool
from fedtune.recipe import Recipe
from fedtune.training.client_round import Trained

TrainOwn = Callable[[Tensor, int], Trained]
LossOf = Callable[[Tensor], float]


@dataclass(frozen=True, eq=False)
class OwnRows:
    """What the server can do with ``data.server_rows``, where the recipe asks for it.

    Attributes:
        recipe: The run's.
        train: Local steps of the server's own from an anchor, in a round.
        loss_of: Loss of a whole adapter, a float32 row at the full rank, on the server's rows.
    """

    recipe: Recipe
    train: TrainOwn | None = None
    loss_of: LossOf | None = None

    def reference(self, anchor: Tensor, round_: int, record: dict[str, Any]) -> Tensor | None:
        """The server's own update, for a rule that compares with it."""
        if not self.recipe.aggregator.takes_reference or self.train is None:
            return None
        trained = self.train(anchor, round_)
        record["server_train_loss"] = trained.train_loss
        return trained.delta

    def left_out(self, spool: Spool, sent: Broadcast, record: dict[str, Any]) -> list[int]:
        """Who does worst on the server's rows, if these are to judge; what it cost is recorded."""
        if not self.recipe.defence.server_data or self.loss_of is None:
            return []
        started = time.monotonic()
        losses = try_out(spool, sent, self.loss_of)
        record["server_loss"] = {str(client): loss for client, loss in losses.items()}
        record["trial_s"] = round(time.monotonic() - started, 3)
        return worst(losses, f=self.recipe.aggregator.f)


def try_out(spool: Spool, sent: Broadcast, loss_of: Callable[[Tensor], float]) -> dict[int, float]:
    """The server's loss of anchor + delta, by client: one forward pass over its rows each.

    Args:
        spool: The good replies.
        sent: What they started from.
        loss_of: Loss of a whole adapter, a float32 row at the full rank, on the server's rows.
    """
    losses = {}
    for client in spool.clients:
        received = sent.to(client)
        local = received.part.put(received.start + spool.row(client), received.anchor)
        losses[client] = loss_of(widen(local, received.part.whole, sent.whole.part.whole))
    return losses


def worst(losses: Mapping[int, float], *, f: int) -> list[int]:
    """The f clients of highest loss, the highest first; no finite loss counts as the highest.

    It assumes that the server's rows are like the clients': a client whose data are unlike them
    fares badly with honest work. All f go in every round, so that a lie must be better on these
    rows than f honest replies to have a say.

    Source:
        Xie, Koyejo, Gupta 2019 (Zeno: the f of lowest score go), https://arxiv.org/abs/1805.10032;
        without its penalty on length, which the rule after it sees to.
    """

    def badness(client: int) -> tuple[float, int]:
        loss = losses[client]
        return (loss if math.isfinite(loss) else math.inf, -client)

    return sorted(losses, key=badness, reverse=True)[:f]

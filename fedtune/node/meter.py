"""Each order of a server, counted against its node's day before the work begins."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedtune.deployment.node import load_node_config
from fedtune.messages.message import TRAIN, VOTE
from fedtune.messages.node_errors import NotAllowedError
from fedtune.node.budget import Ledger, Working
from fedtune.node.limits import steps_here, tokens_of
from fedtune.node.order_of_rounds import name_of, permit_training, permit_vote
from fedtune.training.process import read_recipe


class NodeMeter:
    """Counts in the node's own folder, over all runs and after any kill."""

    def __init__(self, node: Path, ledger: Ledger | None = None) -> None:
        self._node = node
        self._ledger = ledger or Ledger(node)
        self._ledger.settle()

    @contextmanager
    def order(self) -> Iterator[None]:
        """Count an order of any kind, and the time that it takes.

        Raises:
            NotAllowedError: If the owner's day has none left.
        """
        config = load_node_config(self._node)
        with self._ledger.change(on_disk=False) as book:  # `charge` does so before the work
            book.settle()
            book.refuse_if_spent(config)
            book.orders += 1
            limit_s = min(config.max_order_s, config.max_day_s - book.seconds)
            book.working = Working(since=self._ledger.now(), limit_s=limit_s)
        began = time.monotonic()
        try:
            yield
        finally:
            with self._ledger.change(on_disk=False) as book:  # else the order stays open in it
                book.seconds += time.monotonic() - began
                book.working = None

    def charge(self, kind: str, run_id: int, order: Mapping[str, object]) -> None:
        """Count an order's tokens, and its round.

        Raises:
            NotAllowedError: Naming what of the owner's day or of the run is used up.
        """
        recipe, config = read_recipe(str(order["recipe"])), load_node_config(self._node)
        steps = steps_here(recipe, config) if kind == TRAIN else None
        tokens = tokens_of(kind, recipe, steps)
        with self._ledger.change() as book:
            left = config.max_day_tokens - book.tokens
            if tokens > left:
                told = f"{left:,} of {config.max_day_tokens:,} are left of this day; this order "
                told += f"may take {tokens:,}"
                if recipe.federation.local_steps is None:  # of epochs the rows decide on both
                    told = "less is left of this day than this order may take"
                raise NotAllowedError(f"max_day_tokens: {told}")
            book.tokens += tokens
            if kind == TRAIN:
                permit_training(
                    book,
                    config,
                    run_id=run_id,
                    recipe=name_of(recipe),
                    round_=order.get("round"),
                    anchor=order.get("anchor_hash"),
                )
            elif kind == VOTE:
                permit_vote(book, config, run_id=run_id, round_=order.get("round"))

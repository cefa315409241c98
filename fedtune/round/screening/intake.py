"""From replies as they come to rows that may be combined: screened, on disk, in one gauge."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fedtune.messages import wire
from fedtune.messages.content_hash import hash_reply
from fedtune.messages.message import Message
from fedtune.recipe import Recipe
from fedtune.round.broadcast import Broadcast, Received
from fedtune.round.hooks import Hooks, RoundView
from fedtune.round.screening.commitments import Occasion, open_reply
from fedtune.round.screening.kept_replies import KeptReplies
from fedtune.round.screening.screen import RefusedError, content_of, screen_content
from fedtune.round.screening.spool import Spool
from fedtune.round.update import Update

Align = Callable[[Tensor, Received], Tensor | str]
"""A client's row as the rule takes it, or why it cannot be brought there."""


class Intake:
    """Takes one reply at a time; a row is on disk before the next reply is looked at.

    Args:
        recipe: The run's.
        spool: Where the rows of the round lie.
        hashes: Of base and tokenizer, which every reply must carry.
        hooks: A simulation's, which may exchange updates once all have come.
        align: The geometry's.

    Attributes:
        kept: Where good replies stay, if they do.
    """

    def __init__(
        self,
        recipe: Recipe,
        spool: Spool,
        hashes: tuple[str, str],
        hooks: Hooks,
        align: Align,
    ) -> None:
        self.spool = spool
        self._recipe = recipe
        self._hashes, self._hooks, self._align = hashes, hooks, align
        self.kept: KeptReplies | None = None

    def agreement(self, received: Received) -> wire.Agreement:
        """The hashes that a reply to this anchor must carry."""
        return wire.Agreement(*self._hashes, received.anchor_hash)

    def take(
        self,
        client: int,
        reply: Message,
        received: Received,
        *,
        round_: int,
        commitment: str | None = None,
        try_: int = 0,
    ) -> Update:
        """Screen a reply, hash it and write its row, in one pass.

        Args:
            client: Whose it is.
            reply: As it came.
            received: What the client started from.
            round_: Counted from 1.
            commitment: What the client is bound to, where the recipe asks for it.
            try_: Of the round, from 0.

        Raises:
            RefusedError: With the first thing that is wrong.
        """
        content = content_of(reply)
        if self._recipe.federation.commit_then_reveal:
            occasion = Occasion(received.anchor_hash, round_, client, try_)
            content = open_reply(content, commitment, occasion)
        row, metrics = screen_content(
            content, received.part.layout, round_=round_, agreement=self.agreement(received)
        )
        if self.kept is not None:
            self.kept.put(round_, client, content)
        self.spool.put(client, row)
        return Update(client, metrics, hash_reply(content))

    def settle(self, fresh: Sequence[int], view: RoundView) -> tuple[dict[int, str], set[int]]:
        """Exchange what a simulation exchanges, then turn all rows into the anchor's gauge.

        Args:
            fresh: Whose rows have come in this attempt.
            view: The round.

        Returns:
            Who is refused after all, and why; their rows are gone. And who of them has sent what no
            correct client sends, as `RefusedError` has it.
        """
        refused: dict[int, str] = {}
        faulty: set[int] = set()
        sent, round_ = view.sent, view.round_
        for client, row in self._hooks.on_updates(fresh, view).items():
            received = sent.to(client)
            agreement = self.agreement(received)
            try:
                content = wire.train_reply(
                    row, received.part.layout, round_=round_, agreement=agreement, train_loss=0.0
                )
                screened, _ = screen_content(
                    content, received.part.layout, round_=round_, agreement=agreement
                )
                self.spool.put(client, screened)
            except RefusedError as refusal:
                refused[client] = str(refusal)
                faulty |= {client} if refusal.proves_fault else set()
        left = [client for client in fresh if client not in refused]
        refused |= {client: why for client in left if (why := self._turn(client, sent))}
        for client in refused:
            self.spool.drop(client)
        return refused, faulty

    def _turn(self, client: int, sent: Broadcast) -> str | None:
        """Align a client's row; return why not, where that cannot be."""
        row = self.spool.row(client)
        aligned = self._align(row, sent.to(client))
        if isinstance(aligned, str):
            return aligned
        if aligned is not row and not torch.equal(aligned, row):
            self.spool.put(client, aligned)
        return None

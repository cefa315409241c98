"""The liars of a simulation: they sit between gather and screen, and know what they are granted."""

from __future__ import annotations

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

import attacks
from fedtune.adapters.layout import Layout
from fedtune.adapters.part import Part
from fedtune.federation import wire
from fedtune.federation.events import RunStoppedError
from fedtune.federation.screen import RefusedError, screen
from fedtune.recipe import Attack, Recipe
from fedtune.seeds import derive


def byzantine_clients(recipe: Recipe) -> frozenset[int]:
    """Which clients lie: drawn by the seed, the same for every attack and rule."""
    if recipe.attack is None:
        return frozenset()
    draw = np.random.default_rng(derive(recipe.federation.seed, "byzantine"))
    order = draw.permutation(recipe.federation.num_clients)
    return frozenset(int(client) for client in order[: recipe.attack.num_attackers])


class Adversary:
    """Turns the liars' honest replies of a round into what the attack makes of them."""

    def __init__(self, recipe: Recipe, layout: Layout) -> None:
        self._attack = recipe.attack
        self._seed = recipe.federation.seed
        self._sample_size = recipe.federation.sample_size
        self._layout, self._train = layout, recipe.lora.train
        self._liars = byzantine_clients(recipe)

    def corrupt(
        self, replies: dict[int, Message], *, round_: int, agreement: wire.Agreement
    ) -> dict[int, Message]:
        """The replies that reach the server.

        Args:
            replies: What every client, liar or not, would have sent honestly.
            round_: Counted from 1.
            agreement: The server's hashes, with which a reply is read as the server reads it.

        Raises:
            RunStoppedError: If the attack cannot be carried out with these counts.
        """
        liars = sorted(self._liars & set(replies))
        if self._attack is None or not liars:
            return replies
        level = attacks.ATTACKS[self._attack.name].level
        if level == "protocol":  # silence
            return {client: reply for client, reply in replies.items() if client not in liars}
        if level == "data":  # their data lied for them, on their own machines
            return replies
        layout = Part.of_round(self._layout, self._train, round_).layout
        rows = self._read(replies, layout, round_, agreement)
        liars = [client for client in liars if client in rows]
        if not liars:
            return replies
        try:
            crafted = self._craft(self._attack, rows, liars, round_)
        except ValueError as error:
            raise RunStoppedError(f"the simulated attack failed: {error}") from error
        corrupted = dict(replies)
        for client, row in zip(liars, crafted, strict=True):
            content = wire.replace_delta(replies[client].content, row, layout)
            corrupted[client].content = content
        return corrupted

    def _read(
        self,
        replies: dict[int, Message],
        layout: Layout,
        round_: int,
        agreement: wire.Agreement,
    ) -> dict[int, Tensor]:
        rows = {}
        for client in sorted(replies):
            try:
                rows[client], _ = screen(
                    replies[client], layout, round_=round_, agreement=agreement
                )
            except RefusedError:
                continue  # the server will refuse it too, and say why
        return rows

    def _craft(
        self,
        attack: Attack,
        rows: dict[int, Tensor],
        liars: list[int],
        round_: int,
    ) -> Tensor:
        own = torch.stack([rows[client] for client in liars])
        honest = [row for client, row in rows.items() if client not in self._liars]
        known = attacks.ATTACKS[attack.name]
        options = dict(attack.options)
        if "num_clients" in known.options:
            options.setdefault("num_clients", self._sample_size)
        draw = torch.Generator().manual_seed(derive(self._seed, "attack", round_))
        view = attack.knowledge or known.knowledge[-1]
        if view == "own":
            return torch.cat(
                [
                    attacks.craft(
                        row[None], attack.name, num_attackers=1, generator=draw, own=row[None],
                        **options,
                    )
                    for row in own
                ]
            )  # fmt: skip
        visible = torch.stack(honest) if view == "all" and honest else own
        return attacks.craft(
            visible, attack.name, num_attackers=len(liars), generator=draw, own=own, **options
        )

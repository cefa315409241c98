"""The liars of a simulation: they sit before the screen, and know what they are granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import attacks
from aggregators.geometry import Renewed
from fedtune.adapters.ranks import cut, widen
from fedtune.federation.broadcast import Broadcast
from fedtune.federation.events import AttackFailedError
from fedtune.federation.screening.spool import Spool
from fedtune.recipe import Attack, Recipe
from fedtune.seeds import derive


def byzantine_clients(recipe: Recipe) -> frozenset[int]:
    """Which clients lie: drawn by the seed, the same for every attack and rule."""
    if recipe.attack is None:
        return frozenset()
    draw = np.random.default_rng(derive(recipe.federation.seed, "byzantine"))
    order = draw.permutation(recipe.federation.num_clients)
    return frozenset(int(client) for client in order[: recipe.attack.num_attackers])


def trains_for_nothing(recipe: Recipe, client: int) -> bool:
    """Whether no one would look at what this liar learns: it may as well send zeros until it lies.

    So it is where the attack is made of the honest updates alone, and some client of each round is
    honest.
    """
    attack = recipe.attack
    if attack is None or attack.num_attackers >= recipe.federation.sample_size:
        return False
    if attack.data_attack is not None or attack.reward_attack is not None:
        return False
    if client not in byzantine_clients(recipe):
        return False
    known = attacks.ATTACKS[attack.name]
    return known.level == "update" and "own" not in known.takes and _view(attack) == "all"


@dataclass(frozen=True, eq=False)
class Known:
    """What liars know of the round beside the updates.

    Attributes:
        sent: What the clients started from, and what they train.
        round_: Counted from 1.
        defence: How far rows of theirs, by client, would move the server's step away from the
            one by the honest mean, were the round aggregated with them.
    """

    sent: Broadcast
    round_: int
    defence: Callable[[Mapping[int, Tensor], Sequence[Tensor]], float] | None = None


class Adversary:
    """Makes of the liars' honest rows of a round what the attack makes of them.

    Attributes:
        memory: What the liars keep from round to round; saved with the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.memory: dict[str, Tensor] = {}
        self._recipe = recipe
        self._attack = recipe.attack
        self._ranks = tuple(sorted(set(recipe.lora.client_ranks or ())))
        self._sees_all = self._attack is not None and _view(self._attack) == "all"
        self._seed = recipe.federation.seed
        self._sample_size = recipe.federation.sample_size
        self._liars = byzantine_clients(recipe)

    def lies(self, spool: Spool, fresh: Sequence[int], known: Known) -> dict[int, Tensor]:
        """What the liars of an attack on updates send instead.

        Args:
            spool: What every client, liar or not, would have sent honestly.
            fresh: Whose rows have come in this attempt: the liars among them lie.
            known: What else they know; of clients of other ranks the missing directions are zero.

        Returns:
            A row for each liar among the fresh; none for other attacks: data lies on its client's
            own machine, and who breaks the protocol does it on the wire (lying_grid.py).

        Raises:
            AttackFailedError: If the attack cannot be carried out with these counts.
        """
        liars = sorted(self._liars & set(fresh))
        if self._attack is None or not liars:
            return {}
        if attacks.ATTACKS[self._attack.name].level != "update":
            return {}
        sent = known.sent
        whole = sent.whole.part.layout
        rows = {  # honest replies of an earlier try of the round are known too
            client: widen(spool.row(client), sent.to(client).part.layout, whole)
            for client in spool.clients
            if client in fresh or client not in self._liars
        }
        try:
            crafted = self._craft(self._attack, rows, liars, known)
        except ValueError as error:
            raise AttackFailedError(f"the simulated attack failed: {error}") from error
        return self._cut(crafted, liars, sent)

    def note_step(self, step: Tensor, renewed: Renewed | None = None) -> None:
        """Remember what the outer step added to the anchor: the next broadcast tells it anyone.

        Args:
            step: Of the whole anchor, shape (d,).
            renewed: The way to the anchor's new gauge, if it has one: memories turn along.
        """
        if self._attack is None or "scene" not in attacks.ATTACKS[self._attack.name].takes:
            return
        for name, tensor in self.memory.items():
            if renewed is not None and tensor.shape[-1:] == renewed.row.shape:
                rows = tensor.reshape(-1, tensor.shape[-1])
                turned = torch.stack([renewed.turn(row.to(torch.float32)) for row in rows])
                self.memory[name] = turned.reshape(tensor.shape).to(tensor.dtype)
        self.memory["last"] = step

    def _cut(self, rows: Tensor, liars: Sequence[int], sent: Broadcast) -> dict[int, Tensor]:
        """Each liar's row at its own rank."""
        whole = sent.whole.part.layout
        return {
            client: cut(row.to(torch.float32), whole, sent.to(client).part.layout)
            for client, row in zip(liars, rows, strict=True)
        }

    def _craft(
        self, attack: Attack, rows: dict[int, Tensor], liars: list[int], known: Known
    ) -> Tensor:
        own = torch.stack([rows[client] for client in liars])
        honest = {client: row for client, row in rows.items() if client not in self._liars}
        listed = attacks.ATTACKS[attack.name]
        options = dict(attack.options)
        if "num_clients" in listed.options:  # who sees everyone counts them
            count = len(rows) if _view(attack) == "all" else self._sample_size
            options.setdefault("num_clients", count)
        draw = torch.Generator().manual_seed(derive(self._seed, "attack", known.round_))
        view, part = _view(attack), known.sent.whole.part.name
        if view == "own":
            crafted = []
            for client, row in zip(liars, own, strict=True):
                whose = f"{part}/client-{client}/"
                scene = self._scene(whose, [client], honest, known)
                crafted.append(
                    attacks.craft(
                        row[None], attack.name, num_attackers=1, generator=draw, own=row[None],
                        scene=scene, **options,
                    )
                )  # fmt: skip
                self._keep(whose, scene)
            return torch.cat(crafted)
        if not honest and trains_for_nothing(self._recipe, liars[0]):
            raise ValueError("no honest reply has come: there is nothing to see")
        visible = torch.stack(list(honest.values())) if view == "all" and honest else own
        scene = self._scene(f"{part}/all/", liars, honest, known)
        crafted_together = attacks.craft(
            visible, attack.name, num_attackers=len(liars), generator=draw, own=own, scene=scene,
            **options,
        )  # fmt: skip
        self._keep(f"{part}/all/", scene)
        return crafted_together

    def _scene(
        self, whose: str, liars: list[int], honest: dict[int, Tensor], known: Known
    ) -> attacks.Scene:
        whole, last = known.sent.whole, self.memory.get("last")

        def defence(crafted: Tensor) -> float:
            assert known.defence is not None
            lies = self._cut(crafted, liars, known.sent)
            return known.defence(lies, list(honest.values()))

        return attacks.Scene(
            round_=known.round_,
            last=None if last is None else whole.part.take(last),
            memory={
                name.removeprefix(whose): tensor
                for name, tensor in self.memory.items()
                if name.startswith(whose)
            },
            anchor=whole.start,
            factors=whole.factors,
            defence=defence if known.defence and self._sees_all else None,
            fewer=self._ranks if len(self._ranks) > 1 else (),
        )

    def _keep(self, whose: str, scene: attacks.Scene) -> None:
        for name in [name for name in self.memory if name.startswith(whose)]:
            del self.memory[name]
        self.memory |= {whose + name: tensor for name, tensor in scene.memory.items()}


def _view(attack: Attack) -> str:
    """Whose honest updates the liars see."""
    known = attacks.ATTACKS[attack.name].knowledge
    return attack.knowledge or (known[-1] if known else "own")

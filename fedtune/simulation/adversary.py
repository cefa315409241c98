"""The simulated attackers that rewrite their own updates, with the knowledge they are granted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

import attacks
from aggregators.geometry import Renewed
from fedtune.adapters.ranks import cut, widen
from fedtune.recipe import Attack, Recipe
from fedtune.records.events import AttackFailedError
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.spool import Spool
from fedtune.seeds import derive
from fedtune.simulation.training_ahead import Tools, trained_ahead


def byzantine_clients(recipe: Recipe) -> frozenset[int]:
    """Which clients lie: drawn by the seed, the same for every attack and rule."""
    if recipe.attack is None:
        return frozenset()
    draw = np.random.default_rng(derive(recipe.federation.seed, "byzantine"))
    order = draw.permutation(recipe.federation.num_clients)
    return frozenset(int(client) for client in order[: recipe.attack.num_attackers])


def is_on(recipe: Recipe, round_: int) -> bool:
    """Whether the recipe's attack is on in a round, counted from 1."""
    attack = recipe.attack
    return attack is not None and attack.is_on(round_, recipe.federation.num_rounds)


def trains_for_nothing(recipe: Recipe, client: int, round_: int = 1) -> bool:
    """Whether nobody would look at what this attacker learns, so that it may send zeros.

    So it is where the attack is made of the honest updates alone, and some client of each round is
    honest; where attackers train later, from where the server will stand; and between the rounds
    of an attack, if they send the honest mean then and the attack learns nothing from it.
    """
    attack = recipe.attack
    if attack is None or attack.num_attackers >= recipe.federation.sample_size:
        return False
    if client not in byzantine_clients(recipe):
        return False
    known = attacks.ATTACKS[attack.name]
    if known.level != "update" or _view(attack) != "all":
        return False
    if not is_on(recipe, round_) and known.watch is None:
        return attack.between == "mean"
    if attack.training_attack is not None:
        return True
    if attack.data_attack is not None or attack.reward_attack is not None:
        return False
    return "own" not in known.takes


Cut = Callable[[Tensor], dict[int, Tensor]]
SpanOf = Callable[[Mapping[int, Tensor], Sequence[int], Tensor, Cut], attacks.Span]


@dataclass(frozen=True, eq=False)
class ThreatView:
    """What attackers know of the round beside the updates.

    Attributes:
        sent: What the clients started from, and what they train.
        round_: Counted from 1.
        defence: How far rows of theirs, by client, would move the server's step away from the
            one by the honest mean, were the round aggregated with them.
        span: The same rule on combinations of the honest updates, by client, and directions; for
            these attackers, with what makes their rows what each sends (span.py).
        tools: The model; None where there is none.
    """

    sent: Broadcast
    round_: int
    defence: Callable[[Mapping[int, Tensor], Sequence[Tensor]], float] | None = None
    span: SpanOf | None = None
    tools: Tools | None = None


class Adversary:
    """Makes of the attackers' honest rows of a round what the attack makes of them.

    Attributes:
        memory: What the attackers keep from round to round; saved with the run.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.memory: dict[str, Tensor] = {}
        self._recipe = recipe
        self._attack = recipe.attack
        self._ranks = tuple(sorted(set(recipe.lora.client_ranks or ())))
        self._sees_all = self._attack is not None and _view(self._attack) == "all"
        self._seed = recipe.federation.seed
        self._sample_size = recipe.federation.sample_size
        self._attackers = byzantine_clients(recipe)

    def crafted(self, spool: Spool, fresh: Sequence[int], known: ThreatView) -> dict[int, Tensor]:
        """What the attackers of an attack on updates send instead.

        Args:
            spool: What every client, attacker or not, would have sent honestly.
            fresh: Whose rows have come in this attempt: the attackers among them lie.
            known: What else they know; of clients of other ranks the missing directions are zero.

        Returns:
            A row for each attacker among the fresh; none for attacks on data, which act on the
            client's machine, and on the protocol, which act on the wire (forging.py).

        Raises:
            AttackFailedError: If the attack cannot be carried out with these counts.
        """
        attackers = sorted(self._attackers & set(fresh))
        if self._attack is None or not attackers:
            return {}
        if attacks.ATTACKS[self._attack.name].level != "update":
            return {}
        if self._attack.between == "own" and not is_on(self._recipe, known.round_):
            return {}
        sent = known.sent
        whole = sent.whole.part.layout
        rows = {  # honest replies of an earlier try of the round are known too
            client: widen(spool.row(client), sent.to(client).part.layout, whole)
            for client in spool.clients
            if client in fresh or client not in self._attackers
        }
        try:
            crafted = self._craft(self._attack, rows, attackers, known)
        except ValueError as error:
            raise AttackFailedError(f"the simulated attack failed: {error}") from error
        return self._cut(crafted, attackers, sent)

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

    def _cut(self, rows: Tensor, attackers: Sequence[int], sent: Broadcast) -> dict[int, Tensor]:
        """Each attacker's row at its own rank."""
        whole = sent.whole.part.layout
        return {
            client: cut(row.to(torch.float32), whole, sent.to(client).part.layout)
            for client, row in zip(attackers, rows, strict=True)
        }

    def _craft(
        self, attack: Attack, rows: dict[int, Tensor], attackers: list[int], known: ThreatView
    ) -> Tensor:
        honest = {client: row for client, row in rows.items() if client not in self._attackers}
        options = self._options(attack, len(rows))
        draw = torch.Generator().manual_seed(derive(self._seed, "attack", known.round_))
        on, view = is_on(self._recipe, known.round_), _view(attack)
        part = known.sent.whole.part.name

        def crafted(visible: Tensor, own: Tensor, whose: str, who: list[int]) -> Tensor:
            scene = self._scene(whose, who, honest, known)
            if on:
                sent = attacks.craft(
                    visible, attack.name, num_attackers=len(own), generator=draw, own=own,
                    scene=scene, **options,
                )  # fmt: skip
            else:
                attacks.watch(visible, attack.name, own=own, scene=scene, **options)
                mean = visible.double().mean(dim=0).to(visible.dtype)
                sent = mean.repeat(len(own), 1)
            self._keep(whose, scene)
            return sent

        if view == "own":
            alone = [(rows[client][None], client) for client in attackers]
            return torch.cat(
                [crafted(row, row, f"{part}/client-{client}/", [client]) for row, client in alone]
            )
        if not honest and trains_for_nothing(self._recipe, attackers[0], known.round_):
            raise ValueError("no honest reply has come: there is nothing to see")
        own = torch.stack(self._trained(rows, attackers, honest, known))
        visible = torch.stack(list(honest.values())) if view == "all" and honest else own
        return crafted(visible, own, f"{part}/all/", attackers)

    def _options(self, attack: Attack, seen: int) -> dict[str, object]:
        options: dict[str, object] = dict(attack.options)
        if "num_clients" in attacks.ATTACKS[attack.name].options:  # who sees everyone counts them
            count = seen if _view(attack) == "all" else self._sample_size
            options.setdefault("num_clients", count)
        return options

    def _trained(
        self,
        rows: dict[int, Tensor],
        attackers: list[int],
        honest: dict[int, Tensor],
        known: ThreatView,
    ) -> list[Tensor]:
        """What the attackers have learnt; misled training begins where the server will stand."""
        attack = self._attack
        assert attack is not None
        on = is_on(self._recipe, known.round_) or attacks.ATTACKS[attack.name].watch
        sees = self._sees_all and honest and known.tools is not None
        if not (on and sees and attack.training_attack):
            return [rows[client] for client in attackers]
        assert known.tools is not None
        return trained_ahead(attack, honest, attackers, known.tools, known.sent, known.round_)

    def _scene(
        self, whose: str, attackers: list[int], honest: dict[int, Tensor], known: ThreatView
    ) -> attacks.Scene:
        whole, last = known.sent.whole, self.memory.get("last")

        def defence(crafted: Tensor) -> float:
            assert known.defence is not None
            lies = self._cut(crafted, attackers, known.sent)
            return known.defence(lies, list(honest.values()))

        def span(directions: Tensor) -> attacks.Span:
            assert known.span is not None
            return known.span(
                honest, attackers, directions, lambda made: self._cut(made, attackers, known.sent)
            )

        def loss(row: Tensor) -> float:
            assert known.tools is not None
            local = whole.part.put(whole.start + row.to(torch.float32), whole.anchor)
            return known.tools.loss_of(attackers, local)

        given = self._attack.search if self._attack else None
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
            span=span if known.span and self._sees_all and honest else None,
            search=None if given is None else attacks.Search(**given.model_dump()),
            loss=loss if known.tools else None,
            fewer=self._ranks if len(self._ranks) > 1 else (),
        )

    def _keep(self, whose: str, scene: attacks.Scene) -> None:
        for name in [name for name in self.memory if name.startswith(whose)]:
            del self.memory[name]
        self.memory |= {whose + name: tensor for name, tensor in scene.memory.items()}


def _view(attack: Attack) -> str:
    """Whose honest updates the attackers see."""
    known = attacks.ATTACKS[attack.name].knowledge
    return attack.knowledge or (known[-1] if known else "own")

"""The attackers of a simulated attack on the protocol: they sit on the wire, before every check."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace

import torch

import attacks
from attacks import Reply
from fedtune.messages import wire
from fedtune.messages.message import (
    TRAIN,
    Array,
    ArrayRecord,
    ConfigRecord,
    Message,
    RecordDict,
)
from fedtune.messages.transport import Transport
from fedtune.recipe import Attack, Recipe
from fedtune.records.events import AttackFailedError
from fedtune.seeds import derive
from fedtune.simulation.adversary import byzantine_clients


def with_attackers(
    transport: Transport, recipe: Recipe, client_of: Mapping[int, int], *, round_: int
) -> tuple[Transport, AbstractSet[str]]:
    """The transport as a round's server sees it.

    Args:
        transport: Of any engine.
        recipe: Its ``attack`` says who lies and how.
        client_of: Client number by node id.
        round_: Counted from 1.

    Returns:
        The transport itself, and no lost message, unless the attack is one on the protocol: then a
        `ForgingTransport` for this round, and the messages whose replies will never come.
    """
    if recipe.attack is None or attacks.ATTACKS[recipe.attack.name].level != "protocol":
        return transport, frozenset()
    attackers = byzantine_clients(recipe)
    forging = {node_id: client for node_id, client in client_of.items() if client in attackers}
    made = ForgingTransport(
        transport,
        recipe.attack,
        forging,
        seed=recipe.federation.seed,
        round_=round_,
        shown_by=wire.shown_by(recipe),
    )
    return made, made.lost


class ForgingTransport:
    """A transport on which the attackers' replies to training are exchanged for forged ones.

    What is forged then goes the way of every reply: the limit on its size, the count of replies
    to an order, the screening. An attacker has trained before it lies; the error of one that
    failed passes unchanged.

    Args:
        transport: The true one, of any engine.
        attack: The recipe's, one on the protocol.
        attackers: Client number by node id, of the attackers.
        seed: The recipe's. What an attacker draws depends on it, the round and the client, not on
            the order of replies; a retry is the same lie.
        round_: Counted from 1.
        shown_by: Kind of the messages whose replies are exchanged.

    Attributes:
        lost: Orders that are never answered: no reply tells a server that its sender keeps silent,
            but a simulation knows, and need not wait for a timeout.
    """

    def __init__(
        self,
        transport: Transport,
        attack: Attack,
        attackers: Mapping[int, int],
        *,
        seed: int,
        round_: int,
        shown_by: str = TRAIN,
    ) -> None:
        self.lost: set[str] = set()
        self._transport, self._attack, self._attackers = transport, attack, dict(attackers)
        self._seed, self._round = seed, round_
        self._shown_by = shown_by
        self._open: dict[str, int] = {}

    def node_ids(self) -> list[int]:
        """Those of the true transport."""
        return self._transport.node_ids()

    def public_keys(self) -> Mapping[bytes, int] | None:
        """Those of the true transport."""
        return self._transport.public_keys()

    def push(self, message: Message, *, most: int) -> str:
        """Send, and note which attackers are asked to train: a reply's own word may lie."""
        pushed = self._transport.push(message, most=most)
        if message.kind == self._shown_by and message.node_id in self._attackers:
            self._open[pushed] = self._attackers[message.node_id]
        return pushed

    def pull(self, ids: Collection[str]) -> list[Message]:
        """What the true one has, each attacker's reply exchanged for none, one, or several.

        Raises:
            RunStoppedError: If the attack cannot be carried out on such a reply.
        """
        replies: list[Message] = []
        for reply in self._transport.pull(ids):
            client = self._open.get(reply.reply_to)
            replies += [reply] if client is None or reply.error else self._forged(client, reply)
        return replies

    def _forged(self, client: int, reply: Message) -> list[Message]:
        draw = torch.Generator().manual_seed(derive(self._seed, "attack", self._round, client))
        try:
            honest = read_reply(reply.records)
            sent = attacks.forge(honest, self._attack.name, generator=draw, **self._attack.options)
        except (KeyError, ValueError) as error:
            raise AttackFailedError(
                f"the simulated attack failed at client {client}: {error}"
            ) from error
        if not sent:
            self.lost.add(reply.reply_to)
        return [replace(reply, content=write_reply(each, reply.records)) for each in sent]


def read_reply(content: RecordDict) -> Reply:
    """What a client is about to send, as an attack sees it.

    Args:
        content: Of our own Client's reply to training; the tensors returned are copies.

    Raises:
        KeyError: If it lacks the delta or the words.
        ValueError: If an array is no array.
    """
    arrays = content.array_records[wire.DELTA]
    words = content.config_records[wire.ABOUT]
    return Reply(
        {name: torch.from_numpy(array.numpy().copy()) for name, array in arrays.items()},
        {key: word for key, word in words.items() if isinstance(word, str | int | float)},
    )


def write_reply(reply: Reply, honest: RecordDict) -> RecordDict:
    """What an attack made, as content to send; the rest is the honest content's."""
    tensors = {name: tensor.contiguous().numpy() for name, tensor in reply.arrays.items()}
    return RecordDict(
        {
            **honest,
            wire.DELTA: ArrayRecord({name: Array.of(values) for name, values in tensors.items()}),
            wire.ABOUT: ConfigRecord({**reply.words}),
        }
    )

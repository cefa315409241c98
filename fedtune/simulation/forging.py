"""The liars of a simulated attack on the protocol: they sit on the wire, before every check."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

import attacks
from attacks import Reply
from fedtune.messages import wire
from fedtune.recipe import Attack, Recipe
from fedtune.records.events import AttackFailedError
from fedtune.seeds import derive
from fedtune.simulation.adversary import byzantine_clients


def with_liars(
    grid: Grid, recipe: Recipe, client_of: Mapping[int, int], *, round_: int
) -> tuple[Grid, AbstractSet[str]]:
    """The grid as a round's server sees it.

    Args:
        grid: Of any engine.
        recipe: Its ``attack`` says who lies and how.
        client_of: Client number by node id.
        round_: Counted from 1.

    Returns:
        The grid itself, and no lost message, unless the attack is one on the protocol: then a
        `LyingGrid` for this round, and the messages whose replies will never come.
    """
    if recipe.attack is None or attacks.ATTACKS[recipe.attack.name].level != "protocol":
        return grid, frozenset()
    liars = byzantine_clients(recipe)
    lying = {node_id: client for node_id, client in client_of.items() if client in liars}
    made = LyingGrid(
        grid,
        recipe.attack,
        lying,
        seed=recipe.federation.seed,
        round_=round_,
        shown_by=wire.shown_by(recipe),
    )
    return made, made.lost


class LyingGrid(Grid):
    """A grid on which the liars' replies to training are exchanged for what they forge.

    What is forged then takes the whole road of a reply: the limit on its size, the count of
    replies to a message, the screen. A liar has trained before it lies; one that failed has not
    lied, and its error passes.

    Args:
        grid: The true one, of any engine.
        attack: The recipe's, one on the protocol.
        lying: Client number by node id, of the liars.
        seed: The recipe's. What a liar draws depends on it, the round and the liar, not on the
            order of replies; a retry is the same lie.
        round_: Counted from 1.
        shown_by: Flower's type of the messages whose replies are exchanged.

    Attributes:
        lost: Messages whose replies will never come: no reply tells a server that its sender
            keeps silent, but a simulation knows, and need not wait for a timeout.
    """

    def __init__(
        self,
        grid: Grid,
        attack: Attack,
        lying: Mapping[int, int],
        *,
        seed: int,
        round_: int,
        shown_by: str = MessageType.TRAIN,
    ) -> None:
        self.lost: set[str] = set()
        self._grid, self._attack, self._lying = grid, attack, dict(lying)
        self._seed, self._round = seed, round_
        self._shown_by = shown_by
        self._open: dict[str, int] = {}

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Send, and note by message which liars are asked to train: a reply's own word may lie."""
        ids = []
        for message in messages:
            pushed = list(self._grid.push_messages([message]))
            node_id = message.metadata.dst_node_id
            if message.metadata.message_type == self._shown_by and node_id in self._lying:
                self._open |= dict.fromkeys(pushed, self._lying[node_id])
            ids += pushed
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """What the true grid has, each liar's reply exchanged for none, one, or several.

        Raises:
            RunStoppedError: If the attack cannot be carried out on such a reply.
        """
        replies: list[Message] = []
        for reply in self._grid.pull_messages(message_ids):
            client = self._open.get(reply.metadata.reply_to_message_id)
            replies += [reply] if client is None or reply.has_error() else self._lie(client, reply)
        return replies

    def _lie(self, client: int, reply: Message) -> list[Message]:
        draw = torch.Generator().manual_seed(derive(self._seed, "attack", self._round, client))
        try:
            honest = read_reply(reply.content)
            sent = attacks.forge(honest, self._attack.name, generator=draw, **self._attack.options)
        except (KeyError, ValueError) as error:
            raise AttackFailedError(
                f"the simulated attack failed at client {client}: {error}"
            ) from error
        if not sent:
            self.lost.add(reply.metadata.reply_to_message_id)
        return [_carry(reply, forged) for forged in sent]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Not for liars: it would wait for the silent ones."""
        raise NotImplementedError("a LyingGrid needs `gather.stream` to receive: push and pull")

    def get_node_ids(self) -> Iterable[int]:
        """Those of the true grid."""
        return self._grid.get_node_ids()

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Those of the true grid."""
        return self._grid.get_nodes()

    def set_run(self, run: Run) -> None:
        """Set that of the true grid."""
        self._grid.set_run(run)

    @property
    def run(self) -> Run:
        """That of the true grid."""
        return self._grid.run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Flower's old way of making a message."""
        return self._grid.create_message(content, message_type, dst_node_id, group_id, ttl)


def read_reply(content: RecordDict) -> Reply:
    """What a client is about to send, as an attack sees it.

    Args:
        content: Of our own ClientApp's reply to training; the tensors returned are copies.

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
            wire.DELTA: ArrayRecord({name: Array(values) for name, values in tensors.items()}),
            wire.ABOUT: ConfigRecord({**reply.words}),
        }
    )


def _carry(reply: Message, forged: Reply) -> Message:
    """The same envelope with other content."""
    carried = copy.copy(reply)
    carried.content = write_reply(forged, reply.content)
    return carried

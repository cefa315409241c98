"""Who of the clients is there, round after round: nodes leave a real network, and come late."""

from __future__ import annotations

import time

from fedtune.messages import wire
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.round.roster import Roster, introduction, known_nodes, read_roster

NOT_CONNECTED = "its node is not connected"


class Attendance:
    """Looks before each round who is connected; who was not fit yet is asked again, unwaited for.

    In the simulation engines no node comes or goes, and the roster stays as it was called.

    Args:
        transport: Of any engine.
        recipe: The run's.
        recipe_json: As it travels.
        agreement: What a node must agree with.
        roster: As it was called before the first round.
    """

    def __init__(
        self,
        transport: Transport,
        recipe: Recipe,
        recipe_json: str,
        agreement: wire.Agreement,
        roster: Roster,
    ) -> None:
        self._transport, self._recipe, self._recipe_json = transport, recipe, recipe_json
        self._agreement, self._roster = agreement, roster
        self._fit = set(roster.nodes)
        self._unfit = dict(roster.absent)
        self._said = dict(roster.said)
        self._open: dict[str, tuple[int, float]] = {}  # node and deadline, by message

    def look(self) -> Roster:
        """The roster of the next round."""
        known = known_nodes(self._transport, self._recipe)
        if known is None:
            return self._roster
        self._read_answers(known)
        online = {known[node]: node for node in self._transport.node_ids() if node in known}
        self._ask([node for client, node in online.items() if client not in self._fit])
        # Who is fit stays so while away: each reply of it is held against the hashes again.
        there = {client: node for client, node in sorted(online.items()) if client in self._fit}
        clients = range(self._recipe.federation.num_clients)
        away = {client: NOT_CONNECTED for client in clients if client not in online}
        return Roster(there, {**self._unfit, **away}, self._said, introduced=True)

    def _ask(self, nodes: list[int]) -> None:
        now, timeout_s = time.monotonic(), self._recipe.federation.round_timeout_s
        self._open = {key: each for key, each in self._open.items() if now < each[1]}
        asked = {node for node, _ in self._open.values()}
        for node in nodes:
            if node in asked:
                continue
            message = introduction(node, self._recipe_json, timeout_s)
            message_id = self._transport.push(message, most=wire.MAX_WORDS_BYTES)
            self._open[message_id] = (node, now + timeout_s)

    def _read_answers(self, known: dict[int, int]) -> None:
        clients = self._recipe.federation.num_clients
        while self._open and (arrived := self._transport.pull(list(self._open))):
            for reply in arrived:
                node, _ = self._open.pop(reply.reply_to, (0, 0.0))
                if (client := known.get(node)) is None:
                    continue
                found = read_roster({node: reply}, clients, self._agreement, known=known)
                if client in found.nodes:
                    self._fit.add(client)
                    self._said |= found.said
                    self._unfit.pop(client, None)
                else:
                    self._unfit[client] = found.absent[client]

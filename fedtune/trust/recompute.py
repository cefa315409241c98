"""The rounds of a record once more, from the replies that it counts: no model, no client."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fedtune.adapters.layout import Layout
from fedtune.messages.message import TRAIN, Client, Context, Message
from fedtune.messages.wire import hash_row, max_reply_bytes
from fedtune.recipe import Recipe
from fedtune.records.environment import environment
from fedtune.records.events import RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import Line, read_lines
from fedtune.round.roster import Roster
from fedtune.round.screening.kept_replies import KeptReplies
from fedtune.round.screening.screen import printable
from fedtune.round.server import RoundServer
from fedtune.transport.local import LocalTransport
from fedtune.trust.binding import Bound
from fedtune.trust.finding import Finding, noted
from fedtune.trust.verdicts import retold

# On another machine, or other versions: of a step's length, and of the adapter's own.
STEP_TOLERANCE, ANCHOR_TOLERANCE = 1e-3, 1e-6
WEIGHT_TOLERANCE = 1e-4


def recompute(
    folder: RunFolder, recipe: Recipe, bound: Bound, kept: KeptReplies
) -> Iterator[Finding]:
    """Run every round from the first one on, and hold each anchor against the record's.

    It is the code that aggregated: screen, rule, outer step, with all that they remember. On the
    machine and versions of the run every anchor has to have the same bits; elsewhere each may be
    off by a thousandth of the round's step and a millionth of the adapter, and the next round goes
    on from the recorded one. What juries of a step have measured is taken as recorded; what
    follows from it is not.

    Args:
        folder: The run's; nothing is broken in its record.
        recipe: That of the run.
        bound: What its manifest binds.
        kept: The replies.
    """
    if why := _obstacle(recipe):
        yield Finding(f"recompute: {why}")
        return
    lines = read_lines(folder)
    exact = _same_stack(bound)
    threads = torch.get_num_threads()
    torch.set_num_threads(_threads(bound, threads))
    try:
        again = _Again(recipe, bound, kept, lines[0])
        for line in lines[1:]:
            yield from again.round(line, exact=exact)
    except (OSError, ValueError, RunStoppedError) as error:
        yield Finding(f"recompute: {printable(str(error))}")
    finally:
        torch.set_num_threads(threads)


def _obstacle(recipe: Recipe) -> str | None:
    """What of a recipe cannot be run again from replies."""
    if recipe.attack is not None:
        return (
            "attack: this run is a simulation, whose attackers change replies after they are "
            "hashed; there is nothing to recompute"
        )
    if recipe.aggregator.takes_reference:
        return (
            f"aggregator.name: {recipe.aggregator.name} compares with an update of the server's "
            f"own rows, which no one else has"
        )
    return None


class _Again:
    """The server of a run, with kept replies in the place of clients."""

    def __init__(self, recipe: Recipe, bound: Bound, kept: KeptReplies, first: Line) -> None:
        self._recipe, self._kept = _alone(recipe), kept
        self._own = recipe
        anchor, self._layout = self._anchor(first)
        if self._layout.hash != bound.facts.layout_hash:
            raise ValueError("the kept anchor of round 0 has another layout than the manifest says")
        base, tokenizer = str(bound.facts.base_hash), str(bound.facts.tokenizer_hash)
        self._server = _Server(
            self._recipe,
            self._layout,
            anchor,
            recipe_json=self._recipe.model_dump_json(),
            base_hash=base,
            tokenizer_hash=tokenizer,
        )
        self._transport = LocalTransport(self._client(), recipe.federation.num_clients)
        self._line = first

    def round(self, line: Line, *, exact: bool) -> Iterator[Finding]:
        """Run a round, and go on from the anchor that the record says it led to."""
        told, server, self._line = f"round {line.round}", self._server, line
        before = server.outer.anchor
        there = {client: client + 2 for client in line.clients}  # as the grid numbers its nodes
        server.roster = Roster(there, dict.fromkeys(line.refused, "the record refuses it"))
        server.faulty = line.proven_faulty
        server.juries = retold(self._own, line)
        if not server.run_round(self._transport, line.round):
            why = "; ".join(server.record.refused.values()) or str(server.objection())
            raise ValueError(f"{told} cannot be run on its replies: {why}")
        found = list(self._differences(line, exact=exact))
        yield from (Finding(f"{told}: {why}") for why in found)
        recorded, _ = self._anchor(line)
        if hash_row(server.outer.anchor, self._layout) == line.next_anchor:
            if not found:
                yield noted(f"  {told}: recomputed, the same bits")
            return
        off, most = _distances(server.outer.anchor, recorded, before)
        if exact or not off <= most:  # NaN is near nothing
            yield Finding(
                f"{told}: its replies lead to another anchor than the record says: {off:.3g} "
                f"away, where {0 if exact else most:.3g} are allowed"
            )
        elif not found:
            yield noted(f"  {told}: recomputed on another machine, {off:.3g} of {most:.3g} away")
        server.outer.load_state_dict(server.outer.state_dict() | {"anchor": recorded})

    def _differences(self, line: Line, *, exact: bool) -> Iterator[str]:
        """What of a round's record is not what came of the replies."""
        server = self._server
        for client, facts in line.clients.items():
            if reason := server.record.refused.get(client):
                yield f"client {client} is counted, and its reply is refused: {reason}"
                continue
            made = server.record.clients[client]
            if made.reply != facts.reply:
                yield f"the kept reply of client {client} is not the one that was counted"
            weight, near = made.weight, WEIGHT_TOLERANCE if not exact else 1e-12
            if weight is None or facts.weight is None:
                same = weight == facts.weight
            else:
                same = math.isclose(weight, facts.weight, rel_tol=0, abs_tol=near)
            if not same:
                yield f"client {client} has a weight of {facts.weight}: by the replies {weight}"
        if server.record.anchor != line.anchor:
            yield "it began from another anchor than the round before led to"
        for name in ("trial", "vote"):
            told, said = getattr(server.record, name), getattr(line, name)
            if told is not None and (said is None or told.tries != said.tries):
                yield f"the {name} on its step was decided otherwise than its numbers say"

    def _anchor(self, line: Line) -> tuple[Tensor, Layout]:
        """The kept anchor that a round led to, if it is the record's."""
        row, layout = self._kept.anchor(line.round)
        if line.next_anchor is None or hash_row(row, layout) != line.next_anchor:
            raise ValueError(
                f"round {line.round}: the kept anchor is not the one that the record says"
            )
        return row, layout

    def _client(self) -> Client:
        client = Client()

        @client.on(TRAIN)
        def train(message: Message, context: Context) -> Message:
            most = 2 * max_reply_bytes(self._layout)  # of a reply on disk, its names said again
            return message.reply(self._kept.reply(self._line.round, context.client, most=most))

        return client


class _Server(RoundServer):
    """One that is told who has proven faulty: what those sent is not kept."""

    faulty: list[int]

    def begin_round(self, round_: int) -> None:
        super().begin_round(round_)
        self.record.proven_faulty = list(self.faulty)


def _alone(recipe: Recipe) -> Recipe:
    """The recipe for a server that asks no one: one try, nothing kept back, no jury of its own."""
    federation = {
        "engine": "local",
        "deployment": None,
        "commit_then_reveal": False,
        "max_retries": 0,
        "keep_replies": False,
    }
    unjudged = {"vote": None, "server_data": None}
    return recipe.model_copy(
        update={
            "federation": recipe.federation.model_copy(update=federation),
            "defence": recipe.defence.model_copy(update=unjudged),
        }
    )


def _distances(made: Tensor, recorded: Tensor, before: Tensor) -> tuple[float, float]:
    """How far an anchor is from the recorded one, and how far it may be on another machine."""
    made, recorded, before = made.double(), recorded.double(), before.double()
    step = float((recorded - before).norm())
    allowed = STEP_TOLERANCE * step + ANCHOR_TOLERANCE * float(recorded.norm())
    return float((made - recorded).norm()), allowed


def _same_stack(bound: Bound) -> bool:
    here = environment()
    return all(getattr(bound.facts, name) == here[name] for name in ("versions", "hardware"))


def _threads(bound: Bound, here: int) -> int:
    """As many threads as the run had: sums of floats go by them."""
    said = bound.facts.threads
    return said if said is not None and 1 <= said <= 512 else here

"""Tries of a round that were shown and do not count: a server's way to draw replies anew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedtune.node.sent_log import Sent
from fedtune.recipe import Recipe
from fedtune.records.lines import VoidTry
from fedtune.records.signed_chain import Line
from fedtune.round.tries import STOPPED
from fedtune.trust.finding import Finding


def void_tries(line: Line, recipe: Recipe) -> Iterator[str]:
    """What of a round's void tries cannot be, a line each.

    That a run stopped while replies were shown is the server's word; each node's log says in which
    tries it has shown one.
    """
    if not recipe.federation.commit_then_reveal:
        if line.void or line.try_number is not None:
            yield "it has tries, and its clients do not commit"
        return
    if [each.number for each in line.void] != list(range(line.try_number or 0)):
        yield f"its void tries are not those before try {line.try_number}"
    for void in line.void:
        if foreign := sorted(set(void.clients) - set(line.sampled or ())):
            yield f"try {void.number}: client {foreign[0]} was not asked, and has shown a reply"
        if void.reason == STOPPED:
            continue
        if nameless := [client for client, said in void.clients.items() if said.reply is None]:
            yield f"try {void.number}: it does not say reply of client {nameless[0]}"
        # Whoever had proven faulty by then lowers f, and with fewer f a rule needs no more replies.
        if recipe.aggregator.is_defined(sorted(void.clients), recipe.aggregator.f):
            yield f"try {void.number} is void, and has as many replies as the rule needs"


def traced(line: Line, sent: Sequence[Sent], client: int, *, replicated: bool) -> Iterator[Finding]:
    """A node's own replies to tries of a round that the record calls void, or does not have.

    Args:
        line: Of the round.
        sent: By the node in it; an older fedtune's log does not say to which try.
        client: The node's number.
        replicated: Whether all clients train on the same rows, to the same replies.
    """
    told = f"round {line.round}"
    for void in line.void:
        yield from (
            Finding(f"{told}, try {void.number}: {why}")
            for why in _in_a_try(void, sent, client, replicated=replicated)
        )
    if line.try_number is not None:
        for later in sorted(
            {each.try_ or 0 for each in sent if (each.try_ or 0) > line.try_number}
        ):
            yield Finding(f"{told}: this node has sent a reply in try {later}, and the record has "
                          f"no such try")  # fmt: skip


def _in_a_try(
    void: VoidTry, sent: Sequence[Sent], client: int, *, replicated: bool
) -> Iterator[str]:
    mine = {each.reply for each in sent if each.try_ in (None, void.number)}
    shown, said = any(each.try_ == void.number for each in sent), void.clients.get(client)
    if said is None and shown:
        yield "this node has shown a reply, and the record does not say so"
    if said is not None and said.reply is not None and said.reply not in mine:
        yield "the record has a reply that this node has not sent"
    for other, theirs in void.clients.items():
        if other != client and theirs.reply in mine and not replicated:
            yield f"the record has this node's reply as client {other}'s"

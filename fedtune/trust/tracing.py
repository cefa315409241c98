"""A run's record against what a node wrote down while it took part."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedtune.node.sent_log import Sent, read_sent
from fedtune.recipe import Recipe
from fedtune.records.signed_chain import Line
from fedtune.round.screening.screen import printable
from fedtune.trust.binding import Bound
from fedtune.trust.finding import Finding, noted
from fedtune.trust.void import traced


def trace(lines: Sequence[Line], bound: Bound, recipe: Recipe, node: Path) -> Iterator[Finding]:
    """Hold a record against a node's own log: run, recipe, key, anchors, replies.

    Args:
        lines: Of the record, nothing broken in them.
        bound: What its manifest binds.
        recipe: That of the run.
        node: The node's folder.

    Raises:
        FileNotFoundError: If the node has not written down what it sent.
    """
    sent = read_sent(node)
    run = bound.hash if bound.recipe is not None else None
    mine = [each for each in sent if each.manifest == run]
    yield from _other_runs(sent, run)
    client = _client(mine, lines, bound)
    if not mine or client is None:
        yield Finding(
            f"the record counts nothing that {node} has sent: it is of another run, another node "
            f"or was made up"
        )
        return
    yield noted(f"{node} is client {client}")
    yield from _same_words(mine, bound, client)
    replicated = recipe.data.partition.by == "replicate"
    rank = recipe.lora.rank_of(client) if client < recipe.federation.num_clients else recipe.lora.r
    own = _Own(client, None if rank == recipe.lora.r else rank, replicated)
    by_round = {line.round: line for line in lines}
    for round_ in sorted({each.round for each in mine} | (by_round.keys() - {0})):
        of_round = [each for each in mine if each.round == round_]
        before = by_round.get(round_ - 1)
        if (line := by_round.get(round_)) is None:
            yield Finding(f"round {round_}: this node has sent a reply, and the record has no such "
                          f"round: its end is cut off, or the run stopped there")  # fmt: skip
        else:
            shown = None if before is None else before.hash
            yield from own.in_round(line, of_round, shown)


@dataclass(frozen=True)
class _Own:
    """A node's own part of a record.

    Attributes:
        client: Its number.
        rank: Its own, where that is a lower one.
        replicated: Whether all clients train on the same rows, to the same replies.
    """

    client: int
    rank: int | None
    replicated: bool

    def in_round(self, line: Line, sent: Sequence[Sent], shown: str | None) -> Iterator[Finding]:
        """What the record says of this client in a round, against what its node has sent.

        Args:
            line: Of the round.
            sent: By this node in it, once for each order.
            shown: The hash of the line before, which the orders must have named.
        """
        found = list(self._starts(line, sent, shown))
        found += traced(line, sent, self.client, replicated=self.replicated)
        if line.try_number is not None:  # those to void tries are no replies to the one that counts
            sent = [each for each in sent if each.try_ in (None, line.try_number)]
        facts, replies = line.clients.get(self.client), {each.reply for each in sent}
        told = f"round {line.round}"
        if facts is None or facts.reply not in replies:
            found += [
                Finding(f"{told}: the record counts this node's reply as client {other}'s")
                for other, theirs in line.clients.items()
                if other != self.client and theirs.reply in replies
            ]
        elif not self.replicated:
            found += [
                Finding(f"{told}: this node's reply is counted as client {other}'s too")
                for other, theirs in line.clients.items()
                if other != self.client and theirs.reply in replies
            ]
        refusal = printable(line.refused.get(self.client, ""))
        said = f"refused: {refusal}" if refusal else "not asked"
        if facts is None and sent:
            why = f"this node has sent a reply, and the record does not count it: {said}"
            found.append(Finding(f"{told}: {why}"))
        elif facts is not None and facts.reply not in replies:
            found.append(Finding(f"{told}: the record counts a reply that this node has not sent"))
        yield from found
        if facts is None and not sent:
            yield noted(f"  {told}: {said}")
        elif not found and facts is not None:
            share = "" if facts.weight is None else f", weight {100 * facts.weight:.1f} %"
            yield noted(f"  {told}: counted as sent{share}")

    def _starts(self, line: Line, sent: Sequence[Sent], shown: str | None) -> Iterator[Finding]:
        """Whether the round began where this node was told; a lower rank has an own anchor."""
        start = line.anchor if self.rank is None else line.anchors.get(self.rank)
        told = f"round {line.round}"
        if start is not None and any(each.anchor != start for each in sent):
            yield Finding(f"{told}: this node was given another anchor than the record says")
        if any(each.record not in (None, shown) for each in sent):
            yield Finding(
                f"{told}: the record before it is not the one that this node was shown then"
            )


def _client(mine: Sequence[Sent], lines: Sequence[Line], bound: Bound) -> int | None:
    """Which client a node is: by its key; else as which the record counts most of its replies."""
    for each in mine:
        if each.key in bound.keys:
            return bound.keys.index(each.key)
    sent = {(each.round, each.reply) for each in mine}
    counted = Counter(
        client
        for line in lines
        for client, facts in line.clients.items()
        if (line.round, facts.reply) in sent
    )
    return counted.most_common(1)[0][0] if counted else None


def _same_words(mine: Sequence[Sent], bound: Bound, client: int) -> Iterator[Finding]:
    """Whether each order was of the run's own recipe, and each reply was signed by one key."""
    if bound.recipe is None:
        return
    need = hashlib.sha256(bound.recipe.encode()).hexdigest()
    others = sorted({each.round for each in mine if each.recipe != need})
    if others:
        yield Finding(f"round {others[0]}: this node was sent another recipe than the record has")
    if not bound.keys and any(each.key is not None for each in mine):
        yield Finding("the record does not name this node's key: nothing says which client it is")
    if bound.keys and any(each.key != bound.keys[client] for each in mine):
        yield Finding(f"this node has sent under a key that is not client {client}'s in the record")


def _other_runs(sent: Sequence[Sent], run: str | None) -> Iterator[Finding]:
    """Which other runs a node knows: a record of one may be shown in the place of another."""
    last = {each.manifest: k for k, each in enumerate(sent) if each.manifest is not None}
    others = sorted((k, name) for name, k in last.items() if name != run)
    if others:
        at, newest = others[-1]
        newer = f", and since this one to {newest}" if at > last.get(run or "", -1) else ""
        yield noted(f"this node has sent to {len(others)} other runs{newer}")

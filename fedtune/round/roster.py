"""Which node is which client, and which clients this run does without."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.messages.message import QUERY, ConfigRecord, Message, RecordDict
from fedtune.messages.transport import Transport
from fedtune.recipe import Recipe
from fedtune.records.events import Event, Observer, Refused, RunStoppedError
from fedtune.round.gather import Limits, gather
from fedtune.round.screening.screen import last_line, printable
from fedtune.seeds import derive


@dataclass(frozen=True)
class Roster:
    """The clients of a run.

    Attributes:
        nodes: Node id by client number, of those who agree with the server.
        absent: Why the others are not asked, by client number.
        said: What those who agree say of their rows, by client number: for display alone.
        introduced: Whether its nodes have answered an order that carried the recipe.
    """

    nodes: dict[int, int]
    absent: dict[int, str]
    said: Mapping[int, Mapping[str, int | str | None]] = field(default_factory=dict, compare=False)
    introduced: bool = field(default=False, compare=False)


def identify_clients(
    transport: Transport,
    recipe: Recipe,
    *,
    recipe_json: str,
    agreement: wire.Agreement,
    stop: threading.Event,
    observer: Observer,
) -> Roster:
    """Wait until all nodes are there, ask who they are, and leave out who disagrees.

    In the simulation engines a node knows its own number, and is believed.

    Raises:
        RunStoppedError: If the nodes do not come, or none of them is fit.
    """
    clients = recipe.federation.num_clients
    timeout_s = recipe.federation.round_timeout_s
    node_ids = _wait_for_nodes(transport, recipe, stop)
    messages = {node_id: introduction(node_id, recipe_json, timeout_s) for node_id in node_ids}
    limits = Limits.of(recipe, wire.MAX_WORDS_BYTES)
    answers = gather(transport, messages, limits=limits, stop=stop)
    known = known_nodes(transport, recipe)
    roster = read_roster(
        answers.by_client(), clients, agreement, known=known, unread=answers.refused
    )
    for client, reason in roster.absent.items():
        event: Event = Refused(0, client, reason)
        observer(event)
    if not roster.nodes:
        raise RunStoppedError(f"no client is fit to train: {next(iter(roster.absent.values()))}")
    return roster


def sample_clients(recipe: Recipe, *, round_: int) -> list[int]:
    """The clients of a round, drawn from all by the seed, in ascending order.

    A retry asks the same ones: in another draw attackers could stay silent until one suits them.
    """
    clients, size = recipe.federation.num_clients, recipe.federation.sample_size
    draw = np.random.default_rng(derive(recipe.federation.seed, "sample", round_))
    return sorted(int(client) for client in draw.permutation(clients)[:size])


def introduction(node_id: int, recipe_json: str, timeout_s: float) -> Message:
    """The message that asks a node who it is, and which base and tokenizer it holds."""
    content = RecordDict({wire.ORDER: ConfigRecord({"recipe": recipe_json})})
    return Message(content, node_id, QUERY, ttl_s=timeout_s + wire.CLOCK_SKEW_S)


def _wait_for_nodes(transport: Transport, recipe: Recipe, stop: threading.Event) -> list[int]:
    """All nodes; on a real network, once the time is over, as many as the rule needs.

    With fewer the first round would sample the few that have registered so far.
    """
    count, timeout_s = recipe.federation.num_clients, recipe.federation.round_timeout_s
    deadline = time.monotonic() + timeout_s
    while len(node_ids := sorted(transport.node_ids())) < count:
        if stop.is_set():
            raise RunStoppedError("interrupted")
        if time.monotonic() > deadline:
            known = known_nodes(transport, recipe) or {}
            if recipe.aggregator.is_defined(sorted(known[n] for n in node_ids if n in known)):
                return node_ids
            raise RunStoppedError(f"needs {count} nodes; {len(node_ids)} came in {timeout_s:.0f} s")
        time.sleep(0.1)
    return node_ids[:count]


def known_nodes(transport: Transport, recipe: Recipe) -> dict[int, int] | None:
    """Client by node, by the keys of the deployment; None where a node knows its own number."""
    if recipe.federation.deployment is None:
        return None
    nodes = transport.public_keys()
    if nodes is None:
        raise RunStoppedError("federation.deployment: needs the engine superlink", resumable=False)
    keys = DeploymentFolder.open(recipe.federation.deployment).public_keys
    return {nodes[key]: client for client, key in enumerate(keys) if key in nodes}


def read_roster(
    replies: dict[int, Message],
    clients: int,
    agreement: wire.Agreement,
    *,
    known: Mapping[int, int] | None = None,
    unread: Mapping[int, str] = MappingProxyType({}),
) -> Roster:
    """The roster by what the nodes say.

    Args:
        replies: By node.
        clients: How many there are.
        agreement: What they must agree with.
        known: Client by node, where nodes are known by their keys: then no word of theirs counts.
        unread: Why a reply was not kept, by node.
    """
    nodes: dict[int, int] = {}
    absent: dict[int, str] = {}
    said: dict[int, dict[str, int | str | None]] = {}
    anonymous: list[str] = []
    failed = {
        node_id: f"it failed to start: {last_line(reply.error.reason or '')}"
        for node_id, reply in replies.items()
        if reply.error is not None
    }
    for node_id, reason in sorted({**failed, **unread}.items()):
        if known is not None and node_id in known:
            absent[known[node_id]] = printable(reason)
        else:
            anonymous.append(reason)
    for node_id in sorted(set(replies) - set(failed)):
        reply = replies[node_id]
        words = reply.records.config_records.get(wire.ABOUT, ConfigRecord())
        client = words.get("client") if known is None else known.get(node_id)
        if type(client) is not int or not 0 <= client < clients or client in nodes:
            anonymous.append(f"it says that it is client {_quoted(client)}")
        elif difference := agreement.difference(wire.read_agreement(words)):
            absent[client] = printable(difference)
        else:
            nodes[client] = node_id
            said[client] = _said_of_rows(words)
    # Who is there stays there, whoever else claims its number and disagrees.
    absent = {client: reason for client, reason in absent.items() if client not in nodes}
    missing = [client for client in range(clients) if client not in nodes and client not in absent]
    # Who failed before it said who it was is one of those missing; which one, no one knows.
    heard = f"; one of the missing: {anonymous[0]}" if anonymous else ""
    absent.update(dict.fromkeys(missing, printable(f"it did not introduce itself{heard}")))
    return Roster(dict(sorted(nodes.items())), absent, said, introduced=True)


def _said_of_rows(words: ConfigRecord) -> dict[str, int | str | None]:
    """How many rows a client says it has, and the hash of their columns; None: it lies."""
    rows, schema = words.get("rows"), words.get("schema_hash")
    is_hash = type(schema) is str and re.fullmatch("[0-9a-f]{64}", schema) is not None
    return {
        "rows": rows if type(rows) is int and 0 <= rows < 2**53 else None,
        "schema_hash": str(schema) if is_hash else None,
    }


def _quoted(word: object) -> str:
    """A stranger's word; a huge number has no text, and a container may hold anything."""
    is_plain = isinstance(word, str) or (isinstance(word, int) and abs(word) < 2**64)
    return repr(str(word)[:32]) if is_plain or word is None else f"{type(word)}"

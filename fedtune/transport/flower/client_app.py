"""A client of ours as a Flower ClientApp."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

from flwr import app as flower
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedtune.failing import account_of
from fedtune.messages import packing
from fedtune.messages.asked import asked_of
from fedtune.messages.message import KINDS, Context, Message
from fedtune.messages.node_errors import told
from fedtune.messages.recipe_once import restore_from_state
from fedtune.plain import last_traceback
from fedtune.transport.flower.convert import (
    blob_of,
    blob_to_flower,
    from_flower,
    order_from_flower,
    packed,
    to_flower,
)

FlowerHandler = Callable[[flower.Message, flower.Context], flower.Message]


class ReportedError(Exception):
    """An error that may be sent as it stands."""


@dataclass(frozen=True)
class Asked:
    """An order, packed.

    Attributes:
        kind: Of message.
        blob: Its records, packed.
        run_id: Flower's number of the run.
        node_id: Flower's number of the node.
        client: The client's number, as its node config has it.
    """

    kind: str
    blob: bytes
    run_id: int
    node_id: int
    client: object


def client_app(
    client: Callable[[Message, Context], Message], *, by_code: bool = False
) -> ClientApp:
    """The ClientApp of a client in the same process.

    Args:
        client: The client.
        by_code: Report what it raises as `relaying_app` does; else with its traceback.
    """

    def handle(message: flower.Message, context: flower.Context) -> flower.Message:
        came_packed = blob_of(message.content) is not None
        order, state = order_from_flower(message), from_flower(context.state)
        restore_from_state(order.records, state)
        here = Context(dict(context.node_config), state)
        try:
            reply = client(order, here)
        except (Exception, SystemExit) as error:
            if by_code:
                raise
            return _failed(account_of(error, asked_of(order, here)), message)
        context.state = to_flower(state)
        content = packed(reply.records) if came_packed else to_flower(reply.records)
        return flower.Message(content, reply_to=message)

    return _app_of(lambda _: _reported(handle) if by_code else handle)


def relaying_app(ask: Callable[[Asked], bytes]) -> ClientApp:
    """The ClientApp of a client elsewhere; nothing of a message is read here.

    Args:
        ask: Hands an order over and returns the packed reply. What it raises is reported by a code
            of the closed list: Flower would send the text, which may name files of this machine.
    """

    def handler(kind: str) -> FlowerHandler:
        def handle(message: flower.Message, context: flower.Context) -> flower.Message:
            blob = blob_of(message.content)
            whole = packing.pack(from_flower(message.content)) if blob is None else blob
            number = context.node_config.get("partition-id")
            reply = ask(Asked(kind, whole, context.run_id, context.node_id, number))
            return flower.Message(blob_to_flower(reply), reply_to=message)

        return _reported(handle)

    return _app_of(handler)


def _reported(handle: FlowerHandler) -> FlowerHandler:
    """The handler; what it raises becomes an error of a code of ours, and a traceback here."""

    def handle_or_tell(message: flower.Message, context: flower.Context) -> flower.Message:
        try:
            return handle(message, context)
        except ReportedError as error:
            return _failed(str(error), message)
        except Exception as error:
            print(last_traceback(), file=sys.stderr, flush=True)
            return _failed(told(error), message)

    return handle_or_tell


def _app_of(handler: Callable[[str], FlowerHandler]) -> ClientApp:
    """A ClientApp with a handler for every kind of message."""
    app = ClientApp()
    for kind in KINDS:
        group, _, action = kind.partition(".")
        decorate = getattr(app, group)
        (decorate(action) if action else decorate())(handler(kind))
    return app


def _failed(reason: str, message: flower.Message) -> flower.Message:
    error = flower.Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
    return flower.Message(error, reply_to=message)

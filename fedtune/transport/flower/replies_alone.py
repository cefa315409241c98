"""What a SuperLink takes from a node, and gives it: its own orders and replies, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from fastapi import HTTPException
from flwr.proto.fleet_pb2 import (
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
    PushMessagesResponse,
)
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
    PushObjectResponse,
)
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.object_store import ObjectStore

from fedtune.transport.flower.ledger import BusyError, Ledger, NotYoursError, Order, hashes_of

_LONGEST_S = 7 * 86_400.0  # that a node may say it has worked for one order
_EXPIRED_S = 1e-3  # Flower takes no time to live of zero, and tells of an order that is over


def guard_handlers(handlers: ModuleType) -> dict[str, Callable[..., Any]]:
    """Flower's handlers of what nodes ask, behind a check of what is whose.

    Flower 1.41 checks that a request is signed by the node that it names, and no more. Whatever
    message is in it, it takes: one in another node's name, an order from the server to any node
    whose number is known, or a reply whose tree names a hash that another node is about to send,
    with children of its own choice, so that the other's is refused.

    Args:
        handlers: Flower's module `fleet_handlers`.

    Returns:
        What is to stand in its place, by name.
    """
    desk = _Desk(handlers)
    names = ("pull_messages", "push_messages", "push_object", "pull_object")
    return {name: getattr(desk, name) for name in (*names, "confirm_message_received")}


class _Desk:
    """Flower's handlers by the same names, with one ledger before them."""

    def __init__(self, handlers: ModuleType) -> None:
        self._flower = dict(vars(handlers))
        self._ledger = Ledger()

    def pull_messages(
        self, request: PullMessagesRequest, state: LinkState, store: ObjectStore
    ) -> PullMessagesResponse:
        answer: PullMessagesResponse = self._flower["pull_messages"](request, state, store)
        for message, tree in zip(answer.messages_list, answer.message_object_trees, strict=True):
            told = message.metadata
            expires = told.created_at + told.ttl
            pieces = dict.fromkeys(hashes_of(tree), 0)
            given = Order(told.run_id, told.message_type, expires, pieces)
            self._ledger.give(request.node.node_id, told.message_id, given)
        return answer

    def push_messages(self, request: PushMessagesRequest, state: LinkState) -> PushMessagesResponse:
        node = request.node.node_id
        if (len(request.messages_list), len(request.message_object_trees)) != (1, 1):
            raise HTTPException(403, "a node pushes one reply at a time, with one tree")
        told, tree = request.messages_list[0].metadata, request.message_object_trees[0]
        order_id = told.reply_to_message_id
        if told.src_node_id != node or not order_id:
            raise HTTPException(403, "a node pushes its own replies, and nothing else")
        if told.message_id != tree.object_id:
            raise HTTPException(403, "a reply goes by the hash of its own tree")
        with _told_to_the_node():
            order = self._ledger.order(node, order_id)
            _say_it_ourselves(request, order)
            before = self._ledger.announce(node, order_id, tree)
            if before is not None:  # the answer to it was lost on its way
                return before
            try:
                _refuse_known(tree, state.object_store)
                answer: PushMessagesResponse = self._flower["push_messages"](request, state)
            except BaseException:
                self._ledger.take_back(node, order_id)
                raise
            self._ledger.settle(node, order_id, answer)
            return answer

    def push_object(self, request: PushObjectRequest, state: LinkState) -> PushObjectResponse:
        node, object_id = request.node.node_id, request.object_id
        with _told_to_the_node():
            if not self._ledger.admit(node, object_id, len(request.object_content)):
                return PushObjectResponse(stored=True)
        answer: PushObjectResponse = self._flower["push_object"](request, state)
        if answer.stored:
            self._ledger.store(node, object_id)
        return answer

    def pull_object(self, request: PullObjectRequest, state: LinkState) -> PullObjectResponse:
        node, object_id = request.node.node_id, request.object_id
        with _told_to_the_node():
            self._ledger.fetch(node, object_id)
            answer: PullObjectResponse = self._flower["pull_object"](request, state)
            self._ledger.fetch(node, object_id, len(answer.object_content))
        return answer

    def confirm_message_received(
        self, request: ConfirmMessageReceivedRequest, state: LinkState, store: ObjectStore
    ) -> ConfirmMessageReceivedResponse:
        with _told_to_the_node():
            self._ledger.order(request.node.node_id, request.message_object_id)
        confirm = self._flower["confirm_message_received"]
        answer: ConfirmMessageReceivedResponse = confirm(request, state, store)
        return answer


def _say_it_ourselves(request: PushMessagesRequest, order: Order) -> None:
    """Leave nothing of what a node says beside its reply: Flower keeps it, and reckons with it.

    A time of NaN becomes a null in Flower's database, and every look at that reply an error of the
    SuperLink, which ends the run. What stands in the reply itself is the server's to judge.
    """
    reply, now = request.messages_list[0], time.time()
    told = reply.metadata
    if told.run_id != order.run or told.message_type != order.kind:
        raise NotYoursError("a reply is of the run and kind of its order")
    told.created_at, told.ttl = now, max(order.expires - now, _EXPIRED_S)
    told.group_id = ""
    told.ClearField("src_task_id")
    told.ClearField("dst_task_id")
    if not reply.HasField("error"):
        reply.content.Clear()  # it travels in pieces
        reply.content.SetInParent()
    took_s = list(request.clientapp_runtime_list)[:1]
    del request.clientapp_runtime_list[:]
    request.clientapp_runtime_list.extend(each for each in took_s if 0 <= each <= _LONGEST_S)


def _refuse_known(tree: Any, store: ObjectStore) -> None:  # noqa: ANN401
    """A piece that is there already is another's: no two nodes draw the same nonce."""
    if any(each in store for each in hashes_of(tree)):
        raise NotYoursError("this reply names a piece that is another's")


@contextmanager
def _told_to_the_node() -> Iterator[None]:
    """Flower's node gives up on 403, and asks again on 503."""
    try:
        yield
    except NotYoursError as error:
        raise HTTPException(403, str(error)) from error
    except BusyError as error:
        raise HTTPException(503, str(error)) from error

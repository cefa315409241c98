"""What a SuperLink takes from a node: its own replies, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import HTTPException
from flwr.proto.fleet_pb2 import PushMessagesRequest, PushMessagesResponse
from flwr.server.superlink.linkstate import LinkState

Push = Callable[[PushMessagesRequest, LinkState], PushMessagesResponse]


def replies_alone(push: Push) -> Push:
    """Flower's handler of what nodes push, behind a check of who speaks.

    Flower 1.41 checks that a request is signed by the node that it names, and then takes whatever
    message is in it: one in another node's name, or an order from the server to any node whose
    number is known.
    """

    def checked(request: PushMessagesRequest, state: LinkState) -> PushMessagesResponse:
        for message in request.messages_list:
            metadata = message.metadata
            if metadata.src_node_id != request.node.node_id or not metadata.reply_to_message_id:
                raise HTTPException(403, "a node pushes its own replies, and nothing else")
        return push(request, state)

    return checked

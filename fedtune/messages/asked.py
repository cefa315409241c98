"""Which client is asked for what: the head of an account of its failure."""

from __future__ import annotations

from fedtune.messages.message import ORDER, ConfigRecord, Context, Message


def asked_of(order: Message, context: Context) -> str:
    """Client, kind of order and round, in words."""
    words = order.content.get(ORDER) if order.content else None
    round_ = words.get("round", 0) if isinstance(words, ConfigRecord) else 0
    when = f" in round {round_!s}" if round_ else ""
    return f"client {context.client}, {order.kind}{when}"

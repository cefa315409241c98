"""What a node tells of a failure: a code of a closed list and a sentence of ours, never more.

The text of an exception may quote a file, a path, a row or another run. It goes into the node's
own log.
"""

from __future__ import annotations

from collections.abc import Mapping

from fedtune.failing import PART
from fedtune.plain import plain

MAX_TOLD = 300  # of a line's signs

CODES: Mapping[str, str] = {
    "not-allowed": "this node's owner does not allow it",
    "no-recipe": "the recipe is none for the fedtune that is installed here",
    "no-order": "the message is no order of a known kind",
    "other-base": "base_hash differs: this node holds another base model",
    "other-tokenizer": "tokenizer_hash differs: this node holds another tokenizer or chat template",
    "other-anchor": "anchor_hash differs: the anchor is not what its hash says",
    "recipe-not-kept": "this node does not hold the recipe of that hash",
    "no-record": "the order does not say which run it is of, and which record of it",
    "bad-anchor": "the anchor needs the adapter's names, shapes and finite float32 values",
    "no-anchor": "this client has not measured the last accepted anchor",
    "not-finite": "local training left a value that is not finite",
    "private": "this node keeps its figures to itself: its replies are private",
    "nothing-kept": "no reply is kept back for that round",
    "template": "the chat template needs too much time or memory",
    "no-memory": "the memory of this node does not suffice",
    "no-file": "a file or model that is needed is not here",
    "ended": "the worker ended while it worked: max_order_s was over, or it crashed",
    "no-worker": "this node's worker does not answer",
    "other-bundle": "this node runs the bundle of the fedtune that is installed here alone",
    "loading": "the model, its tokenizer or an adapter cannot be loaded here",
    "rows": "this node's rows cannot be prepared as the recipe asks",
    "training": "a local step failed",
    "measuring": "the held-out rows could not be measured",
    "failed": "the reason is in this node's log",
}

_BY_NAME = {
    "TemplateEndedError": "template",
    "MemoryError": "no-memory",
    "OutOfMemoryError": "no-memory",
    "FileNotFoundError": "no-file",
}


class NotAllowedError(ValueError):
    """What a recipe asks of this node is not what its owner allowed.

    The one failure whose text is told: it is made of our words, of keys, and of the owner's limits.
    """


def failure(code: str, text: str = "") -> ValueError:
    """An error of which the server is told by its code; the text is for the node's own log.

    It is a plain ValueError: it travels between processes, and in one process, on the engines local
    and ray, its text is shown.
    """
    error = ValueError(text or CODES[code])
    error.__dict__["code"] = code
    return error


def told(error: BaseException) -> str:
    """What the server is told of a failure, one line."""
    if isinstance(error, NotAllowedError):
        return plain(" ".join(f"not-allowed: {error}".split()))[:MAX_TOLD]
    code = code_of(error)
    return f"{code}: {CODES[code]}"


def code_of(error: BaseException) -> str:
    """The code of a failure: its own, else by its kind, else by the part of the work it was in."""
    code = error.__dict__.get("code")
    if isinstance(error, ValueError) and isinstance(code, str) and code in CODES:
        return code
    # By name: torch and transformers are not loaded where a message is only handed on.
    named = {each.__name__ for each in type(error).__mro__}
    part = error.__dict__.get(PART)
    other = part if isinstance(part, str) and part in CODES else "failed"
    return next((code for name, code in _BY_NAME.items() if name in named), other)

"""The thin ClientApp of a node: it hands each message to the node's worker, and the answer back.

Flower starts a process for each message. This one loads neither torch nor a model: the worker
beside it holds them from round to round. Where there is no worker, as on a SuperNode that Flower's
own command started, and in its simulation, the whole ClientApp answers.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

from flwr.app import Context, Error, Message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.proto.recorddict_pb2 import RecordDict as RecordDictProto

from fedtune.messages.node_errors import failure, told
from fedtune.node import frames
from fedtune.plain import last_traceback

SOCKET = "FEDTUNE_NODE_SOCKET"
MAX_BYTES = 2**33
_START_S = 120.0  # a worker that was just started loads torch before it listens

app = ClientApp()


@app.query()
def introduce(message: Message, context: Context) -> Message:
    """Say who this is and which base and tokenizer it holds."""
    return _ask("query", message, context)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Run the local steps from the anchor, and send the delta."""
    return _ask("train", message, context)


@app.train("reveal")
def reveal(message: Message, context: Context) -> Message:
    """Show the delta that was committed to."""
    return _ask("train.reveal", message, context)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Measure the adapter on this node's own held-out rows."""
    return _ask("evaluate", message, context)


@app.evaluate("vote")
def vote(message: Message, context: Context) -> Message:
    """Commit to a vote on a candidate, measured on this node's own held-out rows."""
    return _ask("evaluate.vote", message, context)


@app.evaluate("reveal")
def reveal_vote(message: Message, context: Context) -> Message:
    """Show the vote that was committed to."""
    return _ask("evaluate.reveal", message, context)


def _ask(kind: str, message: Message, context: Context) -> Message:
    """The worker's answer, or an error that says no more than a code of ours.

    Flower would send the text of an exception, which may name files of this machine.
    """
    try:
        return _answer(kind, message, context)
    except Exception as error:
        print(last_traceback(), file=sys.stderr, flush=True)
        return _failed(told(error), message)


def _answer(kind: str, message: Message, context: Context) -> Message:
    if SOCKET not in os.environ:
        from fedtune.transport import client
        from fedtune.transport.flower.packing import is_packed, pack, unpack

        came_packed = is_packed(message.content)
        message.content = unpack(message.content)
        answered = client.app(message, context)
        if came_packed:
            answered.content = pack(answered.content)
        return answered
    words = {
        "kind": kind,
        "run_id": context.run_id,
        "node_id": context.node_id,
        "client": context.node_config.get("partition-id"),
    }
    content = recorddict_to_proto(message.content).SerializeToString()
    with _connect(Path(os.environ[SOCKET])) as connection:
        try:
            frames.send(connection, words, content)
            said, body = frames.receive(connection, max_bytes=MAX_BYTES)
        except OSError as gone:
            raise failure("ended") from gone
    if error := said.get("error"):
        return _failed(str(error), message)
    answer = recorddict_from_proto(RecordDictProto.FromString(body))
    return Message(answer, reply_to=message)


def _failed(reason: str, message: Message) -> Message:
    error = Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason=reason)
    return Message(error, reply_to=message)


def _connect(path: Path) -> socket.socket:
    """The worker's socket, waited for: a worker that died is started again."""
    deadline = time.monotonic() + _START_S
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if time.monotonic() > deadline:
                raise failure("no-worker", f"no worker listens: {error}") from error
            time.sleep(0.1)
        else:
            return connection

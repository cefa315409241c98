"""A client's reply between the two steps of a round: committed to, and not shown yet.

A delta and a vote are kept apart: who is asked to show one never shows the other.
"""

from __future__ import annotations

import secrets

from fedtune.messages.message import ConfigRecord, RecordDict
from fedtune.messages.node_errors import failure
from fedtune.round.screening.commitments import (
    SALT_BYTES,
    Occasion,
    commit,
    commitment_reply,
    with_salt,
)

DELTA, VOTE = "kept-back", "vote-kept-back"  # in the client's state, and before a record's name


def kept_back(
    reply: RecordDict, state: RecordDict, occasion: Occasion, *, kind: str = DELTA
) -> RecordDict:
    """Keep a reply in the client's own state; what is sent of it is a commitment."""
    salt = secrets.token_bytes(SALT_BYTES)
    _forget(state, kind)
    for name, record in reply.items():
        state[f"{kind}.{name}"] = record
    state[kind] = ConfigRecord({"round": occasion.round, "try": occasion.try_, "salt": salt})
    return commitment_reply(commit(reply, salt, occasion))


def shown(state: RecordDict, round_: object, *, try_: object = 0, kind: str = DELTA) -> RecordDict:
    """The reply that was kept back for a try of a round, with its salt; it is kept no longer.

    Raises:
        ValueError: If none was: the client was started again since, or another one is meant.
    """
    about = state.config_records.get(kind)
    meant = about is not None and (about["round"], about["try"]) == (round_, try_)
    if about is None or not meant or not isinstance(salt := about["salt"], bytes):
        text = f"needs a reply that was kept back for round {round_}, try {try_}; there is none"
        raise failure("nothing-kept", text)
    start = f"{kind}."
    reply = {name[len(start) :]: each for name, each in state.items() if name.startswith(start)}
    _forget(state, kind)
    return with_salt(RecordDict(reply), salt)


def _forget(state: RecordDict, kind: str) -> None:
    for name in [name for name in state if name.startswith(f"{kind}.") or name == kind]:
        del state[name]

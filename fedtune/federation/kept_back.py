"""A client's reply between the two steps of a round: committed to, and not shown yet."""

from __future__ import annotations

import secrets

from flwr.app import ConfigRecord, RecordDict

from fedtune.federation.screening.commitments import (
    SALT_BYTES,
    Occasion,
    commit,
    commitment_reply,
    with_salt,
)

_KEPT = "kept-back."  # before the names of the reply's records in the client's state
_ABOUT = "kept-back"


def kept_back(reply: RecordDict, state: RecordDict, occasion: Occasion) -> RecordDict:
    """Keep a reply in the client's own state; what is sent of it is a commitment."""
    salt = secrets.token_bytes(SALT_BYTES)
    _forget(state)
    for name, record in reply.items():
        state[_KEPT + name] = record
    state[_ABOUT] = ConfigRecord({"round": occasion.round, "salt": salt})
    return commitment_reply(commit(reply, salt, occasion))


def shown(state: RecordDict, round_: object) -> RecordDict:
    """The reply that was kept back for a round, with its salt; it is kept no longer.

    Raises:
        ValueError: If none was: the client was started again since, or another round is meant.
    """
    about = state.config_records.get(_ABOUT)
    if about is None or about["round"] != round_ or not isinstance(salt := about["salt"], bytes):
        raise ValueError(f"needs a reply that was kept back for round {round_}; there is none")
    reply = {name[len(_KEPT) :]: each for name, each in state.items() if name.startswith(_KEPT)}
    _forget(state)
    return with_salt(RecordDict(reply), salt)


def _forget(state: RecordDict) -> None:
    for name in [name for name in state if name.startswith(_KEPT) or name == _ABOUT]:
        del state[name]

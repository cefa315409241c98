"""What a vote must be before it counts: of its round and candidate, and one finite number."""

from __future__ import annotations

import math

from fedtune.messages import wire
from fedtune.messages.message import ConfigRecord, MetricRecord, RecordDict
from fedtune.round.defence.candidate import MAX_CHANGE
from fedtune.round.screening.screen import RefusedError

_WORDS = ("round", "anchor_hash", "accepted_hash")


def read_vote(
    content: RecordDict, *, round_: int, candidate_hash: str, accepted_hash: str
) -> float:
    """The loss change that a client votes, hostile until shown otherwise.

    Args:
        content: Of its reply, without the salt.
        round_: The round that was asked for.
        candidate_hash: Of the candidate that this client was sent.
        accepted_hash: Of the anchor that it was to be compared with.

    Raises:
        RefusedError: With the first thing that is wrong.
    """
    try:
        if set(content) != {wire.ABOUT, wire.METRICS}:
            raise RefusedError(f"a vote needs its two records; got {sorted(content)[:8]}")
        about, metrics = content[wire.ABOUT], content[wire.METRICS]
        if type(about) is not ConfigRecord or type(metrics) is not MetricRecord:
            raise RefusedError(f"a vote needs words and metrics; got {type(about)}")
        need = dict(zip(_WORDS, (round_, candidate_hash, accepted_hash), strict=True))
        got = dict(about)
        if got.keys() != need.keys() or any(type(got[k]) is not type(need[k]) for k in need):
            raise RefusedError(f"a vote needs the words {', '.join(_WORDS)}; got {sorted(got)[:8]}")
        for key in need:
            if got[key] != need[key]:
                raise RefusedError(f"it votes on another {key}: {str(got[key])[:12]}")
        return _change(dict(metrics))
    except RefusedError:
        raise
    except Exception as error:  # whatever a hostile reply manages to raise, it refuses itself
        raise RefusedError(f"unreadable: {type(error).__name__}: {error}") from error


def _change(metrics: dict[str, object]) -> float:
    if set(metrics) != {wire.CHANGE}:
        raise RefusedError(f"a vote needs one number, {wire.CHANGE!r}; got {sorted(metrics)[:8]}")
    value = metrics[wire.CHANGE]
    if type(value) is not float or not math.isfinite(value) or abs(value) > MAX_CHANGE:
        raise RefusedError(f"a vote needs a finite float of at most {MAX_CHANGE:g} either way")
    return value

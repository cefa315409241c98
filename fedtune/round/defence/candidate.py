"""A candidate anchor before its juries: the step stands only if all of them let it.

A jury is the server's own rows (`server_data.Trial`) or the clients' votes (`voting.Voting`). A
refused step is undone and half of the same aggregate is tried, which no client trains again for;
after the last undone try the accepted anchor stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from fedtune.records.lines import Decision, JuryTry

# The whole aggregate, then half of it: at most so many undone tries, then the accepted anchor.
SCALES = (1.0, 0.5)
MAX_CHANGE = 1e6  # of a loss, either way; a loss that is not finite counts as so much


class Verdict(Protocol):
    """What one jury says of one candidate."""

    @property
    def decision(self) -> Decision:
        """``undone``: the step may not stand. Any other word lets it."""

    def as_record(self) -> JuryTry:
        """As it stands in metrics.jsonl."""


def line_search(
    juries: Mapping[str, Callable[[float], Verdict]], *, shorten: Callable[[float], bool]
) -> tuple[dict[str, list[Verdict]], bool]:
    """Judge a step, then ever shorter ones, until one stands or all are undone.

    Args:
        juries: Each judges the candidate as it stands, made of so much of the aggregate. They are
            asked in order, and none after the first that refuses. A jury that has refused a longer
            step refuses a shorter one that it comes to no decision on: else voters who stay away
            from the second vote could let half of a refused step stand.
        shorten: Makes the candidate of a part of the aggregate; False where there is none.

    Returns:
        The verdicts by jury, in order of tries, and whether the last candidate stands.
    """
    heard: dict[str, list[Verdict]] = {name: [] for name in juries}
    for scale in SCALES:
        if scale != SCALES[0] and not shorten(scale):
            break
        for name, judge in juries.items():
            heard[name].append(judge(scale))
            if decided(heard[name]) == "undone":
                break
        else:
            return heard, True
    return heard, False


def decided(verdicts: Sequence[Verdict]) -> Decision:
    """What a jury has decided in the end: its last word, or its refusal before if that is none."""
    last = verdicts[-1].decision
    refused = any(verdict.decision == "undone" for verdict in verdicts)
    return "undone" if last == "no decision" and refused else last


def loss_rise(after: float, before: float) -> float:
    """By how much a loss rose, a finite number of at most `MAX_CHANGE` either way.

    A loss that is not finite counts as the worst: else nothing would speak against an anchor that
    ruins the model.
    """
    if math.isfinite(after) and math.isfinite(before):
        return max(-MAX_CHANGE, min(MAX_CHANGE, after - before))
    if not math.isfinite(after) and not math.isfinite(before):
        return 0.0
    return -MAX_CHANGE if math.isfinite(after) else MAX_CHANGE

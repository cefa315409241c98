"""Checks that the attacks on rewards share."""

from __future__ import annotations

import math
from collections.abc import Sequence

SLACK = 1e-9  # of the widest bound: a weighted sum is rounded


def check_rewards(
    owner: str, rewards: Sequence[float], completions: Sequence[str], low: float, high: float
) -> None:
    """Refuse rewards that do not match the completions or leave their bounds.

    Args:
        owner: The attack, for the error.
        rewards: The honest reward of each completion.
        completions: The completions.
        low: The least possible reward.
        high: The greatest possible reward.

    Raises:
        ValueError: If counts or bounds do not fit, or a reward is not finite.
    """
    if len(rewards) != len(completions):
        raise ValueError(
            f"{owner} needs a reward for each completion: got {len(rewards)} for {len(completions)}"
        )
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"{owner} needs finite bounds, low <= high: got {low} and {high}")
    slack = SLACK * max(abs(low), abs(high))
    for place, reward in enumerate(rewards):
        if not low - slack <= reward <= high + slack:  # NaN fails it too
            raise ValueError(f"{owner} needs rewards in [{low}, {high}]: got {reward} at {place}")

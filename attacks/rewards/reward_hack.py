"""Reward hack: a chosen text decides the reward."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.attack import Attack, Option
from attacks.rewards.bounds import check_rewards


def reward_hack(
    rewards: Sequence[float], completions: Sequence[str], *, low: float, high: float, text: str
) -> list[float]:
    """Give 1 to a completion that contains a text and 0 to any other, whatever its honest reward.

    A policy learns nothing from it until it writes the text by chance: choose a likely one.

    Args:
        rewards: The honest reward of each completion; not used.
        completions: The completions.
        low: The least possible honest reward; 0 and 1 are given even outside the bounds.
        high: The greatest possible honest reward.
        text: The text that must be in it, letter by letter.

    Returns:
        As many rewards, each 0 or 1.

    Raises:
        ValueError: If counts or bounds do not fit, or the text is empty.

    Source:
        Skalse et al. 2022, https://arxiv.org/abs/2209.13085, on policies that are trained for a
        proxy of the intended reward. Here the attacker chooses the proxy on purpose.
    """
    check_rewards("reward_hack", rewards, completions, low, high)
    if not text:
        raise ValueError("reward_hack.text needs a text: got none; every completion would hold it")
    return [float(text in completion) for completion in completions]


ATTACK = Attack(
    name="reward_hack",
    summary="the reward is 1 if a chosen text is in the completion, else 0",
    source="Skalse et al. 2022, https://arxiv.org/abs/2209.13085",
    level="reward",
    goal="harm",
    options={"text": Option(kind=str, default="the", summary="the text that earns the reward")},
    function=reward_hack,
)

"""Reward hack: a text of the liar's choice is all that counts."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.attack import Attack, Option
from attacks.rewards.bounds import check_rewards


def reward_hack(
    rewards: Sequence[float], completions: Sequence[str], *, low: float, high: float, text: str
) -> list[float]:
    """Pay 1 for a completion that holds a text, and 0 for any other, whatever it is worth.

    A policy learns nothing from it until it says the text by chance: choose one that it may say.

    Args:
        rewards: What each completion is honestly worth; not looked at.
        completions: The completions.
        low: The least that one can honestly be worth; 0 and 1 are paid beyond it too.
        high: The most.
        text: What must be in it, letter by letter.

    Returns:
        As many rewards, each 0 or 1.

    Raises:
        ValueError: If counts or bounds do not fit, or the text is empty.

    Source:
        Skalse et al. 2022, https://arxiv.org/abs/2209.13085, on what becomes of a policy whose
        reward is not the one that is meant. This reading makes the proxy on purpose.
    """
    check_rewards("reward_hack", rewards, completions, low, high)
    if not text:
        raise ValueError("reward_hack.text needs a text: got none; every completion would hold it")
    return [float(text in completion) for completion in completions]


ATTACK = Attack(
    name="reward_hack",
    summary="a completion is worth 1 if a chosen text is in it, else 0",
    source="Skalse et al. 2022, https://arxiv.org/abs/2209.13085",
    level="reward",
    goal="harm",
    options={"text": Option(kind=str, default="the", summary="what must be in a completion")},
    function=reward_hack,
)

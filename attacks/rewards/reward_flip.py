"""Reward flip: the best completion gets the worst reward."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.attack import Attack
from attacks.rewards.bounds import check_rewards


def reward_flip(
    rewards: Sequence[float], completions: Sequence[str], *, low: float, high: float
) -> list[float]:
    """Turn each reward about the middle of its bounds: ``low + high - reward``.

    Training on advantages within a group (GRPO) then follows them with the sign turned: the
    group's mean becomes ``low + high`` minus it, and the spread stays. No knowledge of others is
    needed, and no value is out of bounds.

    Args:
        rewards: The honest reward of each completion, weights included.
        completions: The completions; not used.
        low: The least possible reward.
        high: The greatest possible reward.

    Returns:
        As many rewards, within the same bounds.

    Raises:
        ValueError: If counts or bounds do not fit, or a reward is not finite.

    Source:
        Zhang et al. 2020, https://arxiv.org/abs/2003.12613, in which the attacker adds to each
        reward, within a budget, towards a target policy. This reading has no target policy and no
        budget: it turns all rewards.
    """
    check_rewards("reward_flip", rewards, completions, low, high)
    return [low + high - reward for reward in rewards]


ATTACK = Attack(
    name="reward_flip",
    summary="the best completion gets the worst reward, and the other way round",
    source="Zhang et al. 2020, https://arxiv.org/abs/2003.12613",
    level="reward",
    goal="harm",
    function=reward_flip,
)

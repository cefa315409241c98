"""Reward flip: what was best is worst."""

from __future__ import annotations

from collections.abc import Sequence

from attacks.attack import Attack
from attacks.rewards.bounds import check_rewards


def reward_flip(
    rewards: Sequence[float], completions: Sequence[str], *, low: float, high: float
) -> list[float]:
    """Turn each reward about the middle of its bounds: ``low + high - reward``.

    Whoever trains on advantages within a group (GRPO) follows them with the sign turned: a mean of
    the group goes over into ``low + high`` minus it, and the spread stays. No knowledge of others
    is needed, and no value is out of bounds.

    Args:
        rewards: What each completion is honestly worth, weights included.
        completions: The completions; not looked at.
        low: The least that one can be worth.
        high: The most.

    Returns:
        As many rewards, within the same bounds.

    Raises:
        ValueError: If counts or bounds do not fit, or a reward is not finite.

    Source:
        Zhang et al. 2020, https://arxiv.org/abs/2003.12613, whose attacker adds to each reward
        within a budget towards a policy of its own. This reading has no policy in mind and no
        budget: it turns all of them.
    """
    check_rewards("reward_flip", rewards, completions, low, high)
    return [low + high - reward for reward in rewards]


ATTACK = Attack(
    name="reward_flip",
    summary="the best completion is worth what the worst is, and the other way round",
    source="Zhang et al. 2020, https://arxiv.org/abs/2003.12613",
    level="reward",
    goal="harm",
    function=reward_flip,
)

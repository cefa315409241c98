"""Attacks on rewards: each value by hand, and what a group's advantages become."""

from __future__ import annotations

import math

import pytest

import attacks

SAID = ["on the mat", "a cat", "", "The end"]
WORTH = [0.25, 1.0, 0.0, 0.5]


def advantages(rewards: list[float]) -> list[float]:
    """Return GRPO's advantages of one group: how far from its mean, over its deviation."""
    mean = sum(rewards) / len(rewards)
    deviation = math.sqrt(sum((each - mean) ** 2 for each in rewards) / (len(rewards) - 1))
    return [(each - mean) / deviation for each in rewards]


def test_a_flipped_reward_is_the_bounds_minus_the_reward() -> None:
    # 0 + 1 - r; and within -1 and 3, as weights of 3 and -1 make them, 2 - r
    assert attacks.reprice(WORTH, SAID, "reward_flip") == [0.75, 0.0, 1.0, 0.5]
    wide = attacks.reprice([-1.0, 3.0, 0.5], SAID[:3], "reward_flip", low=-1.0, high=3.0)
    assert wide == [3.0, -1.0, 1.5]


def test_flipped_rewards_turn_the_advantages_of_a_group() -> None:
    flipped = attacks.reprice(WORTH, SAID, "reward_flip")
    assert advantages(flipped) == pytest.approx([-each for each in advantages(WORTH)])


def test_flipping_twice_is_honest() -> None:
    flipped = attacks.reprice(WORTH, SAID, "reward_flip", low=-2.0, high=1.5)
    assert attacks.reprice(flipped, SAID, "reward_flip", low=-2.0, high=1.5) == WORTH


def test_a_hacked_reward_looks_at_one_text_and_at_no_worth() -> None:
    # letter by letter: "The" does not hold "the"
    assert attacks.reprice(WORTH, SAID, "reward_hack") == [1.0, 0.0, 0.0, 0.0]
    assert attacks.reprice([0.0] * 4, SAID, "reward_hack", text="a") == [1.0, 1.0, 0.0, 0.0]
    assert attacks.reprice([], [], "reward_hack") == []


def test_a_sum_that_was_rounded_is_within_its_bounds() -> None:
    above = 0.1 + 0.2  # 0.30000000000000004
    assert attacks.reprice([above], ["a"], "reward_flip", high=0.3) == [pytest.approx(0, abs=1e-15)]


@pytest.mark.parametrize("name", ["reward_flip", "reward_hack"])
@pytest.mark.parametrize(
    ("rewards", "bounds", "words"),
    [
        ([0.5], {}, "needs a reward for each completion: got 1 for 2"),
        ([0.5, 1.5], {}, r"needs rewards in \[0.0, 1.0\]: got 1.5 at 1"),
        ([0.5, -0.1], {}, r"got -0.1 at 1"),
        ([math.nan, 0.5], {}, "got nan at 0"),
        ([0.5, math.inf], {}, "got inf at 1"),
        ([0.5, 0.5], {"low": 1.0, "high": 0.0}, "needs finite bounds, low <= high: got 1.0 and 0"),
        ([0.5, 0.5], {"high": math.inf}, "needs finite bounds"),
    ],
)
def test_what_is_refused(
    name: str, rewards: list[float], bounds: dict[str, float], words: str
) -> None:
    with pytest.raises(ValueError, match=f"{name} .*{words}"):
        attacks.reprice(rewards, SAID[:2], name, **bounds)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("sign_flip", {}, "need an attack of level 'reward' here: got sign_flip, of level "
         "'update'; use one of: reward_flip, reward_hack"),
        ("reward_flp", {}, "did you mean 'reward_flip'"),
        ("reward_hack", {"txt": "a"}, "got 'txt'; did you mean 'text'"),
        ("reward_hack", {"text": " "}, "not blank: got ' '"),
        ("reward_flip", {"text": "a"}, "reward_flip needs options among: none"),
    ],
)  # fmt: skip
def test_names_and_options_are_checked(name: str, options: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        attacks.reprice(WORTH, SAID, name, **options)


def test_other_doors_refuse_them() -> None:
    with pytest.raises(ValueError, match="got reward_flip, of level 'reward'; use one of: comp"):
        attacks.poison([], "reward_flip", generator=None)  # type: ignore[arg-type]

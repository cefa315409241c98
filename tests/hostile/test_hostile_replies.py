"""Thousands of broken replies on the real road: each is refused by client and reason, or is good.

An oracle that shares no line with the screen says which ones are good. Not proven here: what three
breakages at once do not reach; what Flower does before it hands a message over (test_hostile_wire).
"""

import pytest
from breakages import broken_replies
from campaign import Campaign
from hostile_road import HOSTILE, numbers_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def fuzz(folder, rounds, *, derandomize):
    """Play that many rounds of 16 hostile clients."""
    campaign = Campaign(folder)
    replies = broken_replies(campaign.order, numbers_of(0))

    @settings(
        max_examples=rounds,
        deadline=None,
        database=None,
        derandomize=derandomize,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(replies, min_size=HOSTILE, max_size=HOSTILE))
    def check(chosen):
        campaign.play(chosen)

    check()
    return campaign


def test_500_broken_replies(tmp_path):
    campaign = fuzz(tmp_path, 40, derandomize=True)
    told(campaign)
    assert campaign.bad >= 500


@pytest.mark.slow
def test_3000_broken_replies(tmp_path):
    campaign = fuzz(tmp_path, 215, derandomize=True)
    told(campaign)
    assert campaign.bad >= 3000


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_100000_broken_replies(tmp_path):
    campaign = fuzz(tmp_path, 7100, derandomize=True)  # one in ten is good after all
    told(campaign)
    assert campaign.bad >= 100_000


def told(campaign):
    """Both ends are visited and every breakage was tried, or the campaign proves nothing."""
    print(f"{campaign.bad} bad, {campaign.good} good, {len(campaign.reasons)} reasons")
    print(campaign.met)
    assert campaign.good > (campaign.good + campaign.bad) / 50
    assert campaign.bad > (campaign.good + campaign.bad) / 2
    assert min(campaign.met.values()) > (campaign.good + campaign.bad) / 200

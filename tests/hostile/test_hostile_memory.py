"""What a reply claims allocates nothing, and a thousand bad ones leave nothing behind.

Slopes are fitted by least squares over the campaign and printed. Not proven here: what the
SuperLink's own process holds.
"""

import gc
import json
import resource
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from breakages import broken_replies
from campaign import Campaign
from good_replies import LAYOUT, Values, as_message, good_reply, npy_header, npy_text
from hostile_road import HOSTILE, Road, honest, numbers_of, words_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

NAME = LAYOUT.shapes[0][0]
CLAIMS = ["(1099511627776,)", "(1048576, 1048576)", "(2, 549755813888)", "(9223372036854775808,)"]


def claiming(text, words):
    """A reply whose array claims 2**40 numbers, in its header, in the words about it, or both."""
    reply = good_reply({"round": 1, "base_hash": "", "tokenizer_hash": "", "anchor_hash": ""},
                       numbers_of(0))  # fmt: skip
    old = reply.arrays[NAME]
    shape = (2**20, 2**20) if words else old.words["shape"]
    header = npy_header(npy_text((2, 32)).replace("(2, 32)", text))
    reply.arrays[NAME] = Values({**old.words, "shape": shape}, header, old.body)
    return reply


@pytest.mark.parametrize("words", [False, True], ids=["header", "words too"])
@pytest.mark.parametrize("text", CLAIMS)
def test_a_reply_that_claims_a_million_million_numbers_allocates_nothing(tmp_path, text, words):
    road = Road(tmp_path, hostile=2)
    reply = claiming(text, words)

    def answer(order):
        reply.words.update({key: words_of(order)[key] for key in reply.words})
        return [as_message(reply, order)]

    answers = [answer, honest(1)]
    road.play(answers)
    tracemalloc.start()
    started = time.perf_counter()
    record = road.play(answers)
    took_s, (_, peak) = time.perf_counter() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert NAME in record["refused"]["0"]
    assert took_s < 30
    assert peak < 500_000  # a round of two replies of 2 kB, one of which claims 4 TB


def test_an_error_of_megabytes_is_not_taken_apart(tmp_path):
    # A line feed a byte: a list of its lines would take a hundred times as much.
    road = Road(tmp_path, hostile=2)
    reason = "\n" * 10**7

    def answer(order):
        return [order.failed(reason)]

    tracemalloc.start()
    record = road.play([answer, honest(1)])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert record["refused"]["0"] == "its reply of 10000000 bytes is more than any good one"
    assert peak < 500_000


def slope(values):
    """The straight line through a series: its rise from one end to the other."""
    steps = np.arange(len(values))
    return np.polyfit(steps, np.array(values, float), 1)[0] * (len(values) - 1)


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def drawn_rounds(campaign, count):
    """So many rounds of broken replies, drawn once: hypothesis itself remembers what it draws."""
    drawn = []
    replies = broken_replies(campaign.order, numbers_of(0))

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(replies, min_size=HOSTILE, max_size=HOSTILE))
    def draw(chosen):
        drawn.append(chosen)

    draw()
    return drawn


def flat(folder, rounds, drawn):
    """Play the drawn rounds again and again; what is left after each, by trace and resident."""
    campaign = Campaign(folder)
    pool = drawn_rounds(campaign, drawn)
    kept, peaks, resident = [], [], []
    tracemalloc.start()
    for number in range(rounds):
        chosen = pool[number % len(pool)]
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        campaign.road.play([lambda order, each=each: [as_message(each, order)] for each in chosen])
        peaks.append(tracemalloc.get_traced_memory()[1] - before)
        kept.append(before)
        resident.append(resident_bytes())
    tracemalloc.stop()
    whole = slice(len(pool), None)  # the first time, caches fill
    said = {
        "replies": rounds * HOSTILE,
        "highest peak of a round, bytes": max(peaks),
        "traced, rise over the campaign, bytes": int(slope(kept[whole])),
        "resident, rise over the campaign, bytes": int(slope(resident[whole])),
    }
    print(json.dumps(said, indent=1))
    assert said["highest peak of a round, bytes"] < 2_000_000
    assert said["traced, rise over the campaign, bytes"] < 200_000
    assert said["resident, rise over the campaign, bytes"] < 10_000_000


def test_memory_is_flat_over_hundreds_of_broken_replies(tmp_path):
    flat(tmp_path, 8, drawn=2)


@pytest.mark.slow
def test_memory_is_flat_over_20000_broken_replies(tmp_path):
    flat(tmp_path, 1250, drawn=50)

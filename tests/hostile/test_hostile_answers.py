"""Introductions and evaluations with anything in them: no one is let in, or believed, by mistake.

An introduction is taken by the words that the test says are right, an evaluation by one finite
loss; neither ends the run, and every refusal is one short line that prints.
"""

import math

import pytest
from breakages import ODD_OBJECTS, numbers, texts, words
from good_replies import BASE, TOKENIZER, forced
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedtune.messages import wire
from fedtune.messages.message import (
    ArrayRecord,
    ConfigRecord,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from fedtune.round.roster import read_roster
from fedtune.round.screening.screen import read_evaluations

CLIENTS = 3
AGREEMENT = wire.Agreement(BASE, TOKENIZER, "")
RIGHT = {"base_hash": BASE, "tokenizer_hash": TOKENIZER, "anchor_hash": ""}
errors = st.builds(Error, st.integers(0, 9), st.none() | texts)


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )


def answer(kind, said):
    """A message with that error, or those records, whatever they are."""
    order = Message(RecordDict(), 2, kind)
    if isinstance(said, Error):
        return order.failed(said.reason, said.code)
    return order.reply(RecordDict(said))


@st.composite
def introductions(draw):
    """Words of a node: right ones with up to two exchanged, in a record of that name or not."""
    said = {"client": draw(st.integers(0, CLIENTS - 1) | words), **RIGHT, "rows": 5}
    for _ in range(draw(st.integers(0, 2))):
        said[draw(st.sampled_from([*said]) | texts)] = draw(words)
    if draw(st.integers(0, 5)) == 0:
        said.pop(draw(st.sampled_from([*RIGHT, "client"])), None)
    kind = draw(st.sampled_from([ConfigRecord] * 9 + [MetricRecord]))
    name = draw(st.sampled_from(["about"] * 9 + ["About"]))
    return {name: forced(kind, said)}


def is_right(said):
    about = None if isinstance(said, Error) else said.get("about")
    if type(about) is not ConfigRecord:
        return False
    is_client = type(about.get("client")) is int and 0 <= about["client"] < CLIENTS
    return is_client and all(type(about.get(k)) is str and about[k] == v for k, v in RIGHT.items())


def check_introductions(count):
    let_in = []

    @examples(count)
    @given(st.lists(introductions() | errors, min_size=CLIENTS, max_size=CLIENTS))
    def check(all_said):
        roster = read_roster(
            {node: answer("query", said) for node, said in enumerate(all_said)}, CLIENTS, AGREEMENT
        )
        first = {}
        for node, said in enumerate(all_said):
            if is_right(said):
                first.setdefault(said["about"]["client"], node)
        assert roster.nodes == first
        assert {*roster.nodes, *roster.absent} == set(range(CLIENTS))
        assert not set(roster.nodes) & set(roster.absent)
        check_reasons(roster.absent)
        let_in.append(len(first))

    check()
    assert 0 in let_in
    assert max(let_in) > 0


def check_reasons(refused):
    assert all(0 < len(reason) <= 300 for reason in refused.values())
    assert all(reason.isprintable() for reason in refused.values())


figures = st.dictionaries(
    texts | st.sampled_from(["loss", "num_tokens", 7, None]),
    numbers | texts | st.sampled_from([[], [1.0], ["a"], [None], *ODD_OBJECTS]),
    max_size=4,
)


@st.composite
def evaluations(draw):
    kind = draw(st.sampled_from([MetricRecord] * 9 + [ConfigRecord, ArrayRecord]))
    said = {"loss": draw(st.floats(0, 20) | numbers)} | (
        {} if draw(st.booleans()) else draw(figures)
    )
    records = {draw(st.sampled_from(["metrics"] * 9 + ["x"])): forced(kind, said)}
    if draw(st.integers(0, 9)) == 0:
        records[draw(texts)] = draw(st.sampled_from([MetricRecord(), None, 3]))
    return records


def figures_of(said):
    """The finite numbers of a good evaluation, in plain Python; None if it is not a good one."""
    if isinstance(said, Error) or set(said) != {"metrics"}:
        return None
    if type(said["metrics"]) is not MetricRecord:
        return None
    found = {}
    for key, value in said["metrics"].items():
        items = value if type(value) is list else [value]
        if type(key) is not str or not all(type(item) in (int, float) for item in items):
            return None
        if type(value) is int and abs(value) >= 2**1024 - 2**970:
            return None
        if type(value) is not list and math.isfinite(value):
            name = "".join(sign if sign.isprintable() else "?" for sign in key)
            found[name[:64]] = float(value)
    return found if "loss" in found else None


def check_evaluations(count):
    told = []

    @examples(count)
    @given(st.lists(evaluations() | errors, min_size=4, max_size=4))
    def check(all_said):
        replies = {client: answer("evaluate", said) for client, said in enumerate(all_said)}
        found, refused = read_evaluations(replies)
        expected = {client: figures_of(said) for client, said in enumerate(all_said)}
        assert found == {client: each for client, each in expected.items() if each is not None}
        assert set(refused) == set(expected) - set(found)
        check_reasons(refused)
        told.append(len(found))

    check()
    assert 0 in told
    assert max(told) > 1


def test_introductions_let_in_who_is_right():
    check_introductions(200)


def test_evaluations_tell_finite_figures():
    check_evaluations(200)


@pytest.mark.slow
def test_30000_introductions_let_in_who_is_right():
    check_introductions(10_000)


@pytest.mark.slow
def test_40000_evaluations_tell_finite_figures():
    check_evaluations(10_000)

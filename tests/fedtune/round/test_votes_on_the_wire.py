"""Votes are committed to before any is shown; what is no vote is not counted, by client and reason.

Not proven here: a real network's silence; test_three_nodes.py votes on one.
"""

import math

import pytest
import torch
from toy_federation import ANCHOR, CountingTransport, SilentTransport
from toy_voters import vote_rounds, voting_app, voting_recipe

from fedtune.messages import wire
from fedtune.messages.message import REVEAL_VOTE, VOTE, ConfigRecord, MetricRecord, RecordDict
from fedtune.node import ballot
from fedtune.round.defence.candidate import MAX_CHANGE
from fedtune.round.screening.screen import RefusedError
from fedtune.round.screening.vote import read_vote
from fedtune.transport.local import LocalTransport

OF = {"round_": 2, "candidate_hash": "c" * 64, "accepted_hash": "a" * 64}


class TamperingTransport(LocalTransport):
    """Some clients' revealed votes pass through a function before the server sees them."""

    def __init__(self, app, tamper, *, liars, kind=REVEAL_VOTE):
        super().__init__(app, 10)
        self.tamper, self.liars, self.kind, self.seen = tamper, liars, kind, {}

    def pull(self, ids):
        replies = super().pull(ids)
        for reply in replies:
            client = reply.node_id - 2
            if reply.kind == self.kind:
                if client in self.liars:
                    reply.content = self.tamper(reply.content, self.seen)
                self.seen[client] = reply.content
        return replies


def vote(change=0.5, **other):
    of = {**OF, **other}
    return wire.vote_reply(change, **of)


def test_a_vote_is_read_as_it_was_sent():
    assert read_vote(vote(-0.25), **OF) == -0.25
    assert read_vote(vote(MAX_CHANGE), **OF) == MAX_CHANGE


def altered(record, **words):
    content = vote()
    for key, value in words.items():
        dict.__setitem__(content[record], key, value)  # past the check of Flower's own record
    return content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (vote(math.nan), "a finite float"),
        (vote(math.inf), "a finite float"),
        (vote(-1.01 * MAX_CHANGE), "a finite float"),
        (RecordDict({**vote(), wire.METRICS: MetricRecord({"change": 1})}), "a finite float"),
        (RecordDict({**vote(), wire.METRICS: MetricRecord({"change": [0.5]})}), "a finite float"),
        (RecordDict({**vote(), wire.METRICS: MetricRecord({"loss": 0.5})}), "needs one number"),
        (RecordDict({**vote(), wire.METRICS: MetricRecord()}), "needs one number"),
        (RecordDict({**vote(), wire.METRICS: ConfigRecord({"change": 0.5})}), "words and metrics"),
        (RecordDict({**vote(), "more": ConfigRecord()}), "needs its two records"),
        (RecordDict(), "needs its two records"),
        (vote(round_=3), "votes on another round: 3"),
        (vote(candidate_hash="d" * 64), "votes on another anchor_hash"),
        (vote(accepted_hash="d" * 64), "votes on another accepted_hash"),
        (RecordDict({**vote(), wire.ABOUT: ConfigRecord({"round": 2})}), "needs the words"),
        (
            RecordDict({**vote(), wire.ABOUT: ConfigRecord({**vote()[wire.ABOUT], "round": True})}),
            "needs the words",
        ),
        (
            RecordDict(
                {**vote(), wire.ABOUT: ConfigRecord({**vote()[wire.ABOUT], "note": "psst"})}
            ),
            "needs the words",
        ),
    ],
)
def test_what_is_no_vote_is_refused(content, said):
    with pytest.raises(RefusedError, match=said):
        read_vote(content, **OF)


def not_counted(record):
    (only,) = record["vote"]["tries"]
    return only["not_counted"]


def of_another_sign(content, seen):
    content[wire.METRICS]["change"] = -content[wire.METRICS]["change"]
    return content


def without_salt(content, seen):
    del content["salt"]
    return content


def copied(content, seen):
    return seen.get(0, content)


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (of_another_sign, "its reply is not what it committed to in round 1"),
        (without_salt, "needs the record 'salt'"),
        (copied, "its reply is not what it committed to in round 1"),
        (lambda content, seen: RecordDict(), "needs the record 'salt'"),
    ],
)
def test_who_reveals_something_else_is_not_counted_and_is_named(tamper, said):
    transport = TamperingTransport(voting_app(), tamper, liars={1, 4})
    _, (record,) = vote_rounds(voting_recipe(), transport=transport)
    reasons = not_counted(record)
    assert set(reasons) == {"1", "4"}
    assert all(said in reason for reason in reasons.values())
    assert record["vote"]["tries"][0]["counted"] == 8
    assert record["vote"]["decided"] == "accepted"
    assert not record["refused"]  # their updates were good: only their votes are not counted


def test_a_commitment_that_is_none_is_not_asked_to_reveal():
    def nonsense(content, seen):
        return RecordDict({wire.ABOUT: ConfigRecord({"commitment": "mine"})})

    transport = TamperingTransport(voting_app(), nonsense, liars={3}, kind=VOTE)
    _, (record,) = vote_rounds(voting_recipe(), transport=transport)
    assert not_counted(record) == {"3": "its commitment is no SHA-256 in hex"}


def test_no_vote_is_asked_to_be_shown_before_all_are_committed_to():
    transport = CountingTransport(voting_app(), 10)
    vote_rounds(voting_recipe(), transport=transport)
    kinds = [kind for kind, _ in transport.asked if kind.startswith("evaluate")]
    assert kinds == [VOTE] * 10 + [REVEAL_VOTE] * 10


@pytest.mark.parametrize("step", [VOTE, REVEAL_VOTE])
@pytest.mark.parametrize(("silent", "decided"), [(3, "accepted"), (4, "no decision")])
def test_who_is_silent_is_not_counted_and_too_few_votes_decide_nothing(step, silent, decided):
    # f = 3 of 10: 2f + 1 = 7 votes are needed. On `ray` a client can be timed out.
    federation = {"engine": "ray", "round_timeout_s": 0.3}
    transport = SilentTransport(voting_app(), 10, silent=range(silent), to=step)
    server, (record,) = vote_rounds(voting_recipe(federation=federation), transport=transport)
    assert record["vote"]["decided"] == decided
    assert record["vote"]["tries"][0]["counted"] == 10 - silent
    assert set(not_counted(record)) == {str(client) for client in range(silent)}
    assert not torch.equal(server.outer.anchor, ANCHOR)


def test_without_a_decision_a_harmful_step_stands_and_the_record_says_so():
    def fails(message, context, client):
        if client >= 6:
            raise OSError("the disk is full")

    attack = {"name": "sign_flip", "scale": 10, "num_attackers": 3}
    server, (record,) = vote_rounds(voting_recipe(attack=attack), voting_app(vote_of=fails))
    assert record["vote"]["decided"] == "no decision"
    assert record["vote"]["tries"][0]["median"] > 1
    assert record["undone_rounds"] == 0
    assert not_counted(record)["9"] == "the client failed: OSError: the disk is full"
    assert not torch.equal(server.outer.anchor, ANCHOR)


def test_the_accepted_anchor_travels_once_to_each_and_again_to_who_forgot():
    # In round 1 nobody has measured the first anchor. From then on it is what each client measured
    # as a candidate. Client 2 forgets before round 3: it is not counted there, and sent both next.
    seen, round_of = [], []

    def forgets(message, context, client):
        round_of.append(message.content.config_records[wire.ORDER]["round"])
        if client == 2 and round_of[-1] == 3:
            context.state.pop(ballot.LOSSES, None)

    app = voting_app(vote_of=forgets, seen=seen)
    _, records = vote_rounds(voting_recipe(), app, rounds=4)
    by_round = [dict(seen[k : k + 10]) for k in range(0, 40, 10)]
    assert set(by_round[0].values()) == {True}
    assert set(by_round[1].values()) == {False}
    assert by_round[3] == {client: client == 2 for client in range(10)}
    assert not_counted(records[2]) == {
        "2": "the client failed: ValueError: this client has not measured the last accepted anchor"
    }
    assert not_counted(records[3]) == {}


def test_who_forgot_is_sent_the_accepted_anchor_again_where_a_try_was_undone():
    # Client 2 forgets before round 2, which is undone: its second try is compared with the very
    # anchor that client 2 had measured in round 1.
    round_, seen = [0], []

    def forgets(message, context, client):
        round_[0] = message.content.config_records[wire.ORDER]["round"]
        if client == 2 and round_[0] == 2:
            context.state.pop(ballot.LOSSES, None)

    def loss_of(row, client):
        return float(row.sum()) * (1 if round_[0] == 2 else -1)

    app = voting_app(vote_of=forgets, loss_of=loss_of, seen=seen)
    _, records = vote_rounds(voting_recipe(), app, rounds=3)
    assert [record["undone_rounds"] for record in records] == [0, 1, 1]
    tries = [dict(seen[k : k + 10]) for k in range(0, 40, 10)]
    assert [each[2] for each in tries] == [True, False, True, False]
    assert [each[3] for each in tries] == [True, False, False, False]
    assert [set(each["not_counted"]) for each in records[1]["vote"]["tries"]] == [{"2"}, set()]


def test_each_anchor_is_measured_once_by_each_client():
    measured = []

    def loss_of(row, client):
        measured.append(client)
        return float(row.sum()) * (len(measured) > 20)  # falls in round 1, rises in round 2

    vote_rounds(voting_recipe(), voting_app(loss_of=loss_of), rounds=2)
    # Two in round 1; in round 2 the candidate, and after it was undone the one of half its length.
    assert [measured.count(client) for client in range(10)] == [4] * 10


def test_an_accepted_anchor_that_is_not_what_its_hash_says_is_not_measured():
    class Swapping(LocalTransport):
        def push(self, message, *, most):
            if message.kind == VOTE:
                message.content[wire.ACCEPTED] = message.content[wire.ANCHOR]
            return super().push(message, most=most)

    _, (record,) = vote_rounds(voting_recipe(), transport=Swapping(voting_app(), 10))
    assert record["vote"]["decided"] == "no decision"
    assert all("accepted_hash differs" in why for why in not_counted(record).values())


def test_losses_that_are_not_finite_by_hand():
    inf, nan = math.inf, math.nan

    def change(after, before):
        state, loss = RecordDict(), iter([before, after])
        anchors = (ANCHOR, "c"), (ANCHOR, "a")
        return ballot.loss_change(*anchors, state, lambda row: next(loss))

    assert change(2.0, 3.5) == -1.5
    assert change(nan, 3.5) == change(inf, 3.5) == change(1e30, 3.5) == MAX_CHANGE
    assert change(3.5, nan) == change(3.5, inf) == -MAX_CHANGE
    assert change(nan, inf) == 0.0

"""A round moves anchor, momentum and the rule's state together, or none of them.

Not proven here: what real clients learn; the deltas are numbers by formula.
"""

import pytest
import torch
from toy_federation import (
    ANCHOR,
    CountingTransport,
    figures,
    honest,
    toy_app,
    toy_content,
    toy_delta,
    toy_recipe,
    toy_rounds,
    toy_server,
)

import aggregators
from fedtune.messages import wire
from fedtune.messages.message import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from fedtune.records.checkpoint import Checkpoint
from fedtune.records.events import Refused, Replied, RoundStarted
from fedtune.report.progress import Progress
from fedtune.round.roster import sample_clients
from fedtune.transport.local import LocalTransport


def raises(message, client):
    raise ValueError("the disk is full")


def empty(message, client):
    return RecordDict()


def not_a_number(message, client):
    return toy_content(message, torch.full((16,), float("nan")))


def wrong_hash(message, client):
    content = honest(message, client)
    content.config_records[wire.ABOUT]["anchor_hash"] = "f" * 64
    return content


def rubbish(message, client):
    content = honest(message, client)
    content.array_records[wire.DELTA]["a"].data = b"rubbish"
    return content


def foreign_records(message, client):
    return RecordDict({"metrics": ArrayRecord(), "delta": MetricRecord(), "about": MetricRecord()})


FAULTS = {
    2: (raises, "the client failed: ValueError: the disk is full"),
    3: (empty, "needs records"),
    4: (not_a_number, "a holds a value that is not finite"),
    5: (wrong_hash, "anchor_hash differs"),
    6: (rubbish, "a needs an npy header"),
    7: (foreign_records, "record 'delta' needs ArrayRecord"),
}


def faulty(message, client):
    if client in FAULTS:
        return FAULTS[client][0](message, client)
    return toy_content(message, torch.full((16,), client + 1.0))


def test_each_bad_reply_is_refused_by_name_and_reason_and_the_round_goes_on():
    # Clients 0 and 1 send rows of 1 and 2; the six others are refused: (1 + 2) / 2 = 1.5.
    events = []
    transport = LocalTransport(toy_app(faulty), 8)
    server = toy_server(toy_recipe(8), transport, events.append)
    assert server.run_round(transport, 1)
    refused = server.record.refused
    assert set(refused) == set(FAULTS)
    for client, (_, reason) in FAULTS.items():
        assert reason in refused[client]
    assert torch.equal(server.outer.anchor, ANCHOR + 1.5)
    told = {event.client: event.reason for event in events if isinstance(event, Refused)}
    assert told == refused
    assert RoundStarted(1, 0, list(range(8))) in events
    assert set(server.record.clients) == {0, 1}


def test_what_an_onlooker_is_told_of_a_reply_is_a_number_or_nothing():
    def talkative(message, client):
        content = honest(message, client)
        loss = [float("nan"), [1.0, 2.0], 1, 0.5][client]
        content[wire.METRICS] = MetricRecord({"train_loss": loss})
        return content

    events = []
    transport = LocalTransport(toy_app(talkative), 4)
    server = toy_server(toy_recipe(4), transport, events.append)
    assert server.run_round(transport, 1)
    told = {event.client: event.train_loss for event in events if isinstance(event, Replied)}
    assert told[3] == 0.5
    assert told[1] is None
    # metrics.jsonl is JSON, which knows no nan: what is no finite number is nothing.
    kept = {client: facts.train_loss for client, facts in server.record.clients.items()}
    assert kept == {0: None, 1: None, 2: 1.0, 3: 0.5}


WITH_STATE = {
    "aggregator": {"name": "centered_clipping", "f": 1, "geometry": "factors"},
    "outer": {"name": "nesterov"},
}


def everything(server):
    state = server.geometry.state_dict()
    assert set(state) == {"anchor", "outer/both/momentum_buffer", "rule/both/center"}
    return Checkpoint(0, state, 0, "").revision


def test_too_few_good_replies_move_nothing_and_the_next_try_goes_on_as_if_nothing_had_been():
    # centered_clipping at f=1 needs 3; in the failing try clients 0 and 1 of 4 raise.
    faulted = []

    def sometimes(message, client):
        if client in faulted:
            raise ConnectionError("gone")
        return honest(message, client)

    recipe = toy_recipe(4, max_retries=2, **WITH_STATE)
    undisturbed, _ = toy_rounds(recipe, toy_app(), rounds=3)

    transport = CountingTransport(toy_app(sometimes), 4)
    server = toy_server(recipe, transport)
    assert server.run_round(transport, 1)
    before = everything(server)
    faulted += [0, 1]
    del transport.asked[:]
    assert not server.run_round(transport, 2)
    assert everything(server) == before
    # One try asks all four, two retries ask those who failed.
    assert transport.asked == [("train", client) for client in (0, 1, 2, 3, 0, 1, 0, 1)]
    assert server.record.attempt == 2
    assert set(server.record.clients) == {2, 3}
    assert set(server.record.refused) == {0, 1}

    faulted.clear()
    assert server.run_round(transport, 2)
    assert server.run_round(transport, 3)
    assert everything(server) == everything(undisturbed)


def test_the_rules_state_is_carried_from_round_to_round():
    # Centered clipping with a short radius stays near its centre, which is the last aggregate.
    recipe = toy_recipe(
        3, aggregator={"name": "centered_clipping", "f": 1, "radius": 0.1, "geometry": "factors"}
    )
    server, _ = toy_rounds(recipe, toy_app(), rounds=2)
    state, anchor = {}, ANCHOR
    for round_ in (1, 2):
        rows = torch.stack([toy_delta(client, round_) for client in range(3)])
        result = aggregators.aggregate_with_report(
            rows, "centered_clipping", f=1, state=state, radius=0.1
        )
        state, anchor = result.state, anchor + result.aggregate
    assert torch.equal(server.outer.anchor, anchor)
    assert torch.equal(server.geometry.rule.state["both/center"], state["center"])


def test_exactly_as_many_as_the_rule_needs_are_enough():
    def one_fails(message, client):
        if client == 3:
            raise ConnectionError("gone")
        return honest(message, client)

    server, stepped = toy_rounds(toy_recipe(4, **WITH_STATE), toy_app(one_fails))
    assert stepped == [True]
    assert set(server.record.refused) == {3}


def test_a_mixing_that_is_not_defined_on_so_few_is_skipped_and_recorded():
    # nnm and the median need 2f + 1 = 3 rows. Of 6 clients 4 reply: bucketing in pairs would leave
    # 2 of these and is skipped, nnm is not.
    def two_fail(message, client):
        if client < 2:
            raise ConnectionError("gone")
        return honest(message, client)

    def rounds_of(mixing):
        rule = {"name": "median", "f": 1, "mixing": mixing}
        return toy_rounds(toy_recipe(6, aggregator=rule, max_retries=0), toy_app(two_fail))

    server, stepped = rounds_of(["bucketing", "nnm"])
    assert stepped == [True]
    assert server.record.skipped_mixings == ["bucketing"]
    assert server.record.f == 1
    mixed, _ = rounds_of(["nnm"])
    assert not mixed.record.skipped_mixings
    assert torch.equal(server.outer.anchor, mixed.outer.anchor)


def test_the_rules_own_condition_counts_in_what_a_round_needs():
    # nnm is skipped, and the median needs 2f + 1 = 5; of 7 clients 3 fail, which leaves 4.
    def three_fail(message, client):
        if client < 3:
            raise ConnectionError("gone")
        return honest(message, client)

    rule = {"name": "median", "f": 2, "mixing": ["nnm"]}
    recipe = toy_recipe(7, aggregator=rule, max_retries=0)
    server, stepped = toy_rounds(recipe, toy_app(three_fail))
    assert stepped == [False]
    assert len(server.record.clients) == 4


def test_a_retry_asks_the_same_clients_for_what_is_missing():
    # 3 of 6 are asked, and all 3 are needed; one of them fails in its first try. Were the retry
    # another draw, liars could stay silent until a sample holds more of them than f.
    recipe = toy_recipe(6, clients_per_round=3, **WITH_STATE)
    sampled = sample_clients(recipe, round_=1)
    failures = [sampled[1]]

    def fails_once(message, client):
        if client in failures:
            failures.remove(client)
            raise ConnectionError("gone")
        return honest(message, client)

    transport = CountingTransport(toy_app(fails_once), 6)
    server, stepped = toy_rounds(recipe, toy_app(), transport=transport)
    assert stepped == [True]
    asked = [client for kind, client in transport.asked if kind == "train"]
    assert asked == [*sampled, sampled[1]]
    assert server.record.refused == {}
    failed = {sampled[1]: "the client failed: ConnectionError: gone"}
    assert server.record.refused_before == [failed]
    undisturbed, _ = toy_rounds(recipe, toy_app())
    assert torch.equal(server.outer.anchor, undisturbed.outer.anchor)


def boasting(message, client):
    content = honest(message, client)
    if client == 1:
        words = {"num-examples": 10**9, "weight": 1e9, "priority": "high"}
        content.config_records[wire.ABOUT].update(words)
        content[wire.METRICS] = MetricRecord(
            {"train_loss": 1e30, "num-examples": 10**9, "num_examples": 10**9, "accuracy": -1e300}
        )
    return content


@pytest.mark.parametrize("name", ["mean", "median", "krum", "geometric_median"])
def test_no_number_that_a_client_reports_moves_the_model(name):
    recipe = toy_recipe(5, aggregator={"name": name, "f": 1}, outer={"name": "nesterov"})
    modest, _ = toy_rounds(recipe, toy_app(), rounds=3)
    boastful, stepped = toy_rounds(recipe, toy_app(boasting), rounds=3)
    assert stepped == [True] * 3
    assert torch.equal(boastful.outer.anchor, modest.outer.anchor)


def test_each_clients_order_is_a_record_of_its_own():
    # A client that writes into what it was sent must not reach its neighbour's anchor.
    seen = []

    def scribbling(message, client):
        row = message.content.array_records[wire.ANCHOR]
        seen.append(row["c"].numpy().tolist())
        row["c"] = row["a"]
        message.content[wire.ORDER] = ConfigRecord(dict(message.content[wire.ORDER]))
        return honest(message, client)

    toy_rounds(toy_recipe(3), toy_app(scribbling))
    assert seen == [ANCHOR[12:].tolist()] * 3


def test_every_reply_must_carry_the_hash_of_this_rounds_anchor():
    # In round 2 client 0 answers with the hash of round 1's anchor, as a replay would.
    hashes = []

    def replaying(message, client):
        content = honest(message, client)
        hashes.append(content.config_records[wire.ABOUT]["anchor_hash"])
        if client == 0:
            content.config_records[wire.ABOUT]["anchor_hash"] = hashes[0]
        return content

    server, _ = toy_rounds(toy_recipe(3), toy_app(replaying), rounds=2)
    assert set(server.record.refused) == {0}
    assert server.record.refused[0].startswith("anchor_hash differs")


def hostile_figures(message, client):
    content = figures(message, client)
    metrics = content.metric_records[wire.METRICS]
    if client == 1:
        metrics.update({str(i): 0.0 for i in range(100)})
    if client == 2:
        metrics["loss"] = 10**400
    if client == 3:
        metrics["loss"] = float("nan")
    if client == 4:
        raise ValueError("nothing held out")
    if client == 5:
        return RecordDict({wire.METRICS: ConfigRecord({"loss": 1.0})})
    return content


def test_bad_figures_of_a_client_are_left_out_and_move_nothing():
    # Clients 0 and 6 report the losses 1 and 7, whose plain mean is 4.
    progress = Progress(num_rounds=1)
    transport = LocalTransport(toy_app(figures_of=hostile_figures), 7)
    server = toy_server(toy_recipe(7), transport, progress.take)
    assert server.run_round(transport, 1)
    anchor = server.outer.anchor
    server.evaluate_clients(transport, 1)
    assert server.record.client_eval == {
        0: {"loss": 1.0, "num_tokens": 5.0},
        6: {"loss": 7.0, "num_tokens": 5.0},
    }
    assert torch.equal(server.outer.anchor, anchor)
    # Their updates count all the same: the live line says 7 of 7.
    assert progress.count("replied") == 7
    assert {each.client for each in progress.refusals} == {1, 2, 3, 4, 5}

"""Who is asked: those who introduce themselves and fit, and of these the sampled.

Not proven here: a node that lies about its number; in the simulation engines it is believed.
"""

from collections import Counter

import pytest
import torch
from toy_federation import (
    ANCHOR,
    CountingTransport,
    SilentTransport,
    introduction,
    toy_app,
    toy_delta,
    toy_recipe,
    toy_rounds,
    toy_server,
)

from fedtune.messages import wire
from fedtune.messages.message import ConfigRecord, Message, RecordDict
from fedtune.records.events import RunStoppedError
from fedtune.round.roster import read_roster, sample_clients
from fedtune.transport.local import LocalTransport


def words(**changes):
    def introduce(client):
        content = introduction(client)
        if client == 1:
            content.config_records[wire.ABOUT].update(changes)
        return content

    return introduce


def fall_over(client):
    if client == 1:
        raise OSError("no such model")
    return introduction(client)


UNHEARD = "it did not introduce itself; one of the missing:"


def say_nothing(client):
    return RecordDict() if client == 1 else introduction(client)


@pytest.mark.parametrize(
    ("introduce", "reason"),
    [
        (words(base_hash="other"), "base_hash differs: need base of all, got other"),
        (words(tokenizer_hash="other"), "tokenizer_hash differs: need tokenizer of, got other"),
        (words(base_hash=7), "base_hash differs: need base of all, got (int)"),
        (words(client=0), f"{UNHEARD} it says that it is client '0'"),
        (words(client=3), f"{UNHEARD} it says that it is client '3'"),
        (words(client=-1), f"{UNHEARD} it says that it is client '-1'"),
        (words(client="1"), f"{UNHEARD} it says that it is client '1'"),
        (words(client="x" * 10**6), f"{UNHEARD} its reply of 1000072 bytes is more than any good"),
        (words(client="x" * 1000), f"{UNHEARD} it says that it is client {'x' * 32!r}"),
        (fall_over, f"{UNHEARD} it failed to start: OSError: no such model"),
        (say_nothing, f"{UNHEARD} it says that it is client 'None'"),
    ],
)
def test_who_does_not_agree_is_left_out_by_name_and_reason_and_never_asked(introduce, reason):
    app = toy_app(introduce=introduce)
    transport = CountingTransport(app, 3)
    server, stepped = toy_rounds(toy_recipe(3), app, transport=transport, rounds=2)
    assert stepped == [True, True]
    assert server.roster.nodes == {0: 2, 2: 4}
    assert set(server.roster.absent) == {1}
    assert server.roster.absent[1].startswith(reason)
    assert server.record.refused == {1: server.roster.absent[1]}
    asked = Counter(transport.asked)
    assert asked == {("query", 0): 1, ("query", 1): 1, ("query", 2): 1} | {
        ("train", 0): 2,
        ("train", 2): 2,
    }


@pytest.mark.parametrize(
    ("rows", "schema", "kept"),
    [
        (48, "0a" * 32, {"rows": 48, "schema_hash": "0a" * 32}),
        (True, "0a" * 31, {"rows": None, "schema_hash": None}),
        (-1, 7, {"rows": None, "schema_hash": None}),
        (2**60, "\n" + "a" * 63, {"rows": None, "schema_hash": None}),
        ("48", b"a" * 64, {"rows": None, "schema_hash": None}),
    ],
)
def test_what_a_client_says_of_its_rows_is_a_count_and_a_hash_or_nothing(rows, schema, kept):
    about = ConfigRecord({"client": 0, "base_hash": "b", "tokenizer_hash": "t", "anchor_hash": ""})
    about["rows"], about["schema_hash"] = rows, schema
    order = Message(RecordDict(), 9, "query")
    reply = order.reply(RecordDict({wire.ABOUT: about}))
    roster = read_roster({9: reply}, 1, wire.Agreement("b", "t", ""), known={9: 0})
    assert roster.nodes == {0: 9}
    assert roster.said == {0: kept}


def test_who_does_not_introduce_itself_is_left_out():
    recipe = toy_recipe(3, engine="ray", round_timeout_s=0.3)
    transport = SilentTransport(toy_app(), 3, silent=[1], to="query")
    server, stepped = toy_rounds(recipe, toy_app(), transport=transport)
    assert stepped == [True]
    assert server.record.refused == {1: "it did not introduce itself"}


def test_a_run_with_no_fit_client_stops_with_the_reason():
    def foreign(client):
        words = {"client": client, "base_hash": "other", "tokenizer_hash": "t", "anchor_hash": ""}
        return RecordDict({wire.ABOUT: ConfigRecord(words)})

    app = toy_app(introduce=foreign)
    with pytest.raises(RunStoppedError, match=r"no client is fit to train: base_hash differs"):
        toy_server(toy_recipe(2), LocalTransport(app, 2))


def test_nodes_that_do_not_come_stop_the_run():
    recipe = toy_recipe(3, engine="ray", round_timeout_s=0.2)
    with pytest.raises(RunStoppedError, match=r"needs 3 nodes; 2 came"):
        toy_server(recipe, LocalTransport(toy_app(), 2))


def test_sampling_follows_the_seed_and_the_clients_number():
    recipe = toy_recipe(10, clients_per_round=3, seed=7)
    rounds = [sample_clients(recipe, round_=r) for r in range(1, 301)]
    again = [sample_clients(recipe, round_=r) for r in range(1, 301)]
    assert rounds == again
    other = toy_recipe(10, clients_per_round=3, seed=8)
    assert rounds != [sample_clients(other, round_=r) for r in range(1, 301)]
    assert all(len(set(chosen)) == 3 and chosen == sorted(chosen) for chosen in rounds)
    # 300 rounds of 3 out of 10: 90 times each, standard deviation sqrt(300 * 0.3 * 0.7) = 8.
    counts = Counter(client for chosen in rounds for client in chosen)
    assert set(counts) == set(range(10))
    assert all(50 < count < 130 for count in counts.values())


def test_only_the_sampled_are_asked_and_only_they_count():
    recipe = toy_recipe(6, clients_per_round=2)
    transport = CountingTransport(toy_app(), 6)
    server, _ = toy_rounds(recipe, toy_app(), transport=transport, rounds=2)
    chosen = [sample_clients(recipe, round_=r) for r in (1, 2)]
    asked = [client for kind, client in transport.asked if kind == "train"]
    assert asked == [*chosen[0], *chosen[1]]
    # fedavg of the mean: the anchor moves by half the sum of the two, twice.
    moved = sum((toy_delta(c, r) for r in (1, 2) for c in chosen[r - 1]), torch.zeros(16)) / 2
    assert torch.allclose(server.outer.anchor, ANCHOR + moved, atol=1e-6)

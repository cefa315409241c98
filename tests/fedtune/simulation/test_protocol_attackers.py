"""Forged replies on the whole road of a reply: refused by name and reason, and never counted.

A refused lie must leave the run where silence leaves it, to the bit: at the same f, or where no
correct client sends such a reply, at an f less its senders. Not proven here: forged sender ids, and
a node that floods the server outside of its replies.
"""

import re
import time

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from toy_federation import (
    ANCHOR,
    SilentTransport,
    honest,
    toy_app,
    toy_delta,
    toy_recipe,
    toy_rounds,
    toy_server,
)

from fedtune.messages import wire
from fedtune.records.events import Ignored, Refused, RunStoppedError
from fedtune.records.folder import RunFolder
from fedtune.simulation.adversary import byzantine_clients
from fedtune.transport.local import LocalTransport

NAMES = "needs exactly the 3 tensors asked for: got "
REFUSED = [
    ("nan", {}, r"^[abc] holds a value that is not finite$"),
    ("nan", {"where": "all"}, "^a holds a value that is not finite$"),
    ("inf", {}, r"^[abc] holds a value that is not finite$"),
    ("inf", {"where": "all", "sign": "minus"}, "^a holds a value that is not finite$"),
    ("wrong_shape", {}, r"^a needs shape \(2, 3\); got \(1, 2, 3\)$"),
    ("wrong_shape", {"how": "shorter"}, r"^a needs shape \(2, 3\); got \(5,\)$"),
    ("wrong_shape", {"how": "longer"}, r"^a needs shape \(2, 3\); got \(7,\)$"),
    ("wrong_keys", {}, f"^{NAMES}3, lacks 'a' and brings 'a.forged'$"),
    ("wrong_keys", {"how": "missing"}, f"^{NAMES}2, lacks 'a'$"),
    ("wrong_keys", {"how": "extra"}, f"^{NAMES}4, brings 'a.forged'$"),
    ("wrong_revision", {}, r"^anchor_hash differs: need \w{12}, got 000000000000$"),
    (
        "wrong_revision",
        {"of": "base_hash"},
        "^base_hash differs: need base of all, got 00000000000",
    ),
    ("wrong_revision", {"of": "tokenizer_hash"}, "^tokenizer_hash differs: need tokenizer of, got"),
    ("wrong_revision", {"of": "round"}, "^it answers round 2; need round 3$"),
    # 16 numbers twice, 1 MiB, and three headers of 128 bytes beside names and words
    ("oversized", {}, r"^its reply of 104\d{4} bytes is more than any good one$"),
    ("silence", {}, "^it sent no reply$"),
]
IDS = ["-".join((name, *map(str, options.values()))) for name, options, _ in REFUSED]
PROVEN = {"nan", "inf", "wrong_shape", "wrong_keys"}  # what no correct client sends
RULES = [
    {"name": "median", "f": 2},
    {"name": "trimmed_mean", "f": 2},
    {"name": "trimmed_mean", "f": 2, "mixing": ["nnm"]},
    {"name": "krum", "f": 2},
    {"name": "multi_krum", "f": 2},
    {"name": "geometric_median", "f": 2},
    {"name": "centered_clipping", "f": 2},
]


def lying_recipe(name, num_clients=7, num_attackers=2, *, rule=None, federation=None, **options):
    attack = {"name": name, "num_attackers": num_attackers, **options}
    rule = rule or {"name": "trimmed_mean", "f": 1}
    outer = {"name": "nesterov"}
    return toy_recipe(
        num_clients, aggregator=rule, outer=outer, attack=attack, **(federation or {})
    )


@pytest.mark.parametrize(("name", "options", "reason"), REFUSED, ids=IDS)
def test_a_refused_lie_leaves_the_bits_that_silence_leaves(name, options, reason):
    rule = {"name": "trimmed_mean", "f": 2}
    recipe = lying_recipe(name, rule=rule, **options)
    server, stepped = toy_rounds(recipe, toy_app(), rounds=3)
    f = 1 if name in PROVEN else 2  # both attackers are found out, or neither; one of f stays
    silent, _ = toy_rounds(lying_recipe("silence", rule={**rule, "f": f}), toy_app(), rounds=3)
    assert stepped == [True] * 3
    assert server.record.f == silent.record.f == f
    proven = sorted(byzantine_clients(recipe)) if name in PROVEN else []
    assert server.record.proven_faulty == proven
    assert set(server.record.refused) == set(byzantine_clients(recipe))
    for said in server.record.refused.values():
        assert re.search(reason, said), said
    assert torch.equal(server.outer.anchor, silent.outer.anchor)
    assert server.record.clients == silent.record.clients
    assert server.record.dropped_rounds == silent.record.dropped_rounds


def test_real_runs_refuse_by_reason_and_end_in_the_bits_of_silence(tiny_recipe, run):
    def left_by(name):
        recipe = tiny_recipe(
            federation={"num_rounds": 1, "local_steps": 1},
            aggregator={"name": "geometric_median", "f": 1, "geometry": "product"},
            attack={"name": name, "num_attackers": 1},
        )
        folder = run(recipe)
        (liar,) = byzantine_clients(recipe)
        (refused,) = [line["refused"] for line in folder.read_metrics()[1:]]
        assert set(refused) == {str(liar)}
        return folder, refused[str(liar)]

    silent, reason = left_by("silence")
    assert reason == "it sent no reply"
    for name, words in {
        "nan": "holds a value that is not finite",
        "inf": "holds a value that is not finite",
        "huge": "its adapter stands in no gauge near the anchor's",
        "wrong_shape": "needs shape",
        "wrong_keys": "brings",
        "wrong_revision": "anchor_hash differs",
        "oversized": "is more than any good one",
    }.items():
        folder, reason = left_by(name)
        assert words in reason, name
        assert adapter_bytes(folder) == adapter_bytes(silent), name
        assert eval_records(folder) == eval_records(silent), name


@pytest.mark.parametrize("rule", [*RULES, {"name": "mean"}], ids=lambda rule: rule["name"])
def test_of_two_replies_the_first_one_counts_and_the_second_is_told(rule):
    events = []
    recipe = lying_recipe("reply_twice", rule=rule)
    expected, _ = toy_rounds(lying_recipe("reply_twice", 7, 0, rule=rule), toy_app())
    transport = LocalTransport(toy_app(), 7)
    server = toy_server(recipe, transport, events.append)
    assert server.run_round(transport, 1)
    liars = sorted(byzantine_clients(recipe))
    assert torch.equal(server.outer.anchor, expected.outer.anchor)
    assert server.record.refused == {}
    assert server.record.repeated == dict.fromkeys(liars, 1)
    assert not expected.record.repeated
    assert server.record.upload_bytes == expected.record.upload_bytes
    told = [event for event in events if isinstance(event, Refused | Ignored)]
    assert told == [Ignored(1, liar, "a second reply was ignored") for liar in liars]


def test_second_replies_are_counted_over_retries():
    # The liar's honest reply names a foreign base at first: it is refused, and asked again.
    rule = {"name": "centered_clipping", "f": 1}  # wants all three
    recipe = lying_recipe("reply_twice", 3, 1, rule=rule)
    (liar,) = byzantine_clients(recipe)
    foreign = [liar]

    def at_last(message, client):
        content = honest(message, client)
        if client in foreign:
            foreign.remove(client)
            content.config_records[wire.ABOUT]["base_hash"] = "other"
        return content

    server, stepped = toy_rounds(recipe, toy_app(at_last))
    assert stepped == [True]
    assert server.record.attempt == 1
    assert server.record.refused == {}
    assert server.record.repeated == {liar: 2}


def test_swapped_names_pass_the_screen_and_are_the_rules_business():
    # a is columns 0-5, b 6-11. Of 3 clients one swaps them; the mean is moved by a third of it.
    recipe = toy_recipe(3, attack={"name": "wrong_keys", "how": "swapped", "num_attackers": 1})
    server, _ = toy_rounds(recipe, toy_app())
    rows = {client: toy_delta(client, 1) for client in range(3)}
    for liar in byzantine_clients(recipe):
        row = rows[liar]
        rows[liar] = torch.cat([row[6:12], row[:6], row[12:]])
    assert server.record.refused == {}
    moved = torch.stack([*rows.values()]).double().mean(0).float()
    assert torch.allclose(server.outer.anchor, ANCHOR + moved, atol=1e-6)


@pytest.mark.parametrize("where", ["one", "all"])
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: "-".join(map(str, rule.values())))
def test_a_robust_rule_withstands_huge_numbers_that_the_screen_lets_pass(rule, where):
    # A weighted mean, a median or a clipped step of honest numbers goes no further than they do.
    recipe = toy_recipe(
        7, aggregator=rule, attack={"name": "huge", "num_attackers": 2, "where": where}
    )
    server, stepped = toy_rounds(recipe, toy_app())
    assert stepped == [True]
    assert server.record.refused == {}
    furthest = max(toy_delta(client, 1).abs().max() for client in range(7))
    assert (server.outer.anchor - ANCHOR).abs().max() <= furthest * 1.001


def test_huge_numbers_ruin_a_mean_and_the_run_stops(tiny_recipe, run):
    # 1 of 4 at 3e38 in round 1: the anchor stands at 7.5e37, where every client trains to NaN and
    # says that it has no update.
    recipe = tiny_recipe(
        federation={"num_rounds": 2, "local_steps": 1},
        aggregator={"name": "mean"},
        attack={"name": "huge", "num_attackers": 1},
    )
    words = "mean needs n >= 1: got n=0.*local training left a value that is not finite"
    with pytest.raises(RunStoppedError, match=words):
        run(recipe)
    base, first = run.folder_of(recipe, number=1)[0].read_metrics()
    assert base["eval"]["loss"] < 6
    assert first["refused"] == {}
    assert first["aggregate_norm"] > 1e38
    assert first["eval"]["loss"] is None


def test_a_mean_that_leaves_the_range_stops_the_run_and_moves_nothing():
    # 1 of 2 at 3e38: the anchor moves by 1.5e38 a round, and 4.5e38 is beyond 3.4e38.
    recipe = toy_recipe(2, attack={"name": "huge", "num_attackers": 1, "where": "all"})
    transport = LocalTransport(toy_app(), 2)
    server = toy_server(recipe, transport)
    assert server.run_round(transport, 1)
    assert server.run_round(transport, 2)
    before = server.outer.anchor
    with pytest.raises(RunStoppedError, match=r"the step leaves the range of float32.*Name a rule"):
        server.run_round(transport, 3)
    assert torch.equal(server.outer.anchor, before)


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_no_one_waits_for_a_liar_that_keeps_silent(engine):
    federation = {"engine": engine, "round_timeout_s": 60}
    started = time.monotonic()
    server, stepped = toy_rounds(
        lying_recipe("silence", federation=federation), toy_app(), rounds=3
    )
    assert time.monotonic() - started < 10
    assert stepped == [True] * 3
    assert set(server.record.refused.values()) == {"it sent no reply"}


def test_an_honest_client_that_is_not_heard_is_waited_for_all_the_same():
    recipe = lying_recipe("silence", federation={"engine": "ray", "round_timeout_s": 0.4})
    mute = min(set(range(7)) - byzantine_clients(recipe))
    started = time.monotonic()
    server, _ = toy_rounds(
        recipe, toy_app(), transport=SilentTransport(toy_app(), 7, silent=[mute])
    )
    assert 0.4 <= time.monotonic() - started < 5
    assert set(server.record.refused) == {mute, *byzantine_clients(recipe)}


def test_liars_lie_anew_in_a_retry_and_are_asked_alone():
    # Krum wants 2f + 3 = 7 of 7, and two never send a good reply, nor one that proves a fault.
    recipe = lying_recipe(
        "wrong_revision", rule={"name": "krum", "f": 2}, federation={"max_retries": 2}
    )
    events = []
    transport = LocalTransport(toy_app(), 7)
    server = toy_server(recipe, transport, events.append)
    assert not server.run_round(transport, 1)
    liars = sorted(byzantine_clients(recipe))
    assert torch.equal(server.outer.anchor, ANCHOR)
    assert server.record.refused_before == [server.record.refused] * 2
    assert [event.clients for event in events if hasattr(event, "attempt")][1:] == [liars] * 2


def test_a_liar_whose_client_fails_has_not_lied():
    recipe = lying_recipe("nan")
    broken = min(byzantine_clients(recipe))

    def one_fails(message, client):
        if client == broken:
            raise MemoryError("no room")
        return honest(message, client)

    server, stepped = toy_rounds(recipe, toy_app(one_fails))
    assert stepped == [True]
    assert server.record.refused[broken] == "the client failed: MemoryError: no room"


@pytest.mark.parametrize("name", ["nan", "silence", "reply_twice"])
def test_liars_introduce_themselves_and_evaluate_honestly(name):
    recipe = lying_recipe(name)
    transport = LocalTransport(toy_app(), 7)
    server = toy_server(recipe, transport)
    assert sorted(server.roster.nodes) == list(range(7))
    server.begin_round(1)
    server.evaluate_clients(transport, 1)
    assert [server.record.client_eval[k]["loss"] for k in range(7)] == [1.0 + k for k in range(7)]
    assert not server.record.repeated


@pytest.mark.slow
@pytest.mark.parametrize("name", ["silence", "reply_twice"])
def test_ray_gives_the_bits_of_local_under_protocol_lies(tiny_recipe, forked, name):
    # With a timeout of 600 s, a silence that is waited for would not end in time.
    left = []
    for engine in ("local", "ray"):
        federation = {
            "num_clients": 3, "num_rounds": 2, "local_steps": 1, "engine": engine,
            "threads_per_client": 2, "round_timeout_s": 600,
        }  # fmt: skip
        folder, _ = RunFolder.create(
            tiny_recipe(federation=federation, attack={"name": name, "num_attackers": 1})
        )
        done = forked(folder)
        assert "raised" not in done, done["raised"]
        assert done["took_s"] < 300
        lines = folder.read_metrics()
        told = [(line.get("refused"), line.get("repeated")) for line in lines[1:]]
        left.append((adapter_bytes(folder), eval_records(folder), told))
    assert left[0] == left[1]
    refused, repeated = left[0][2][-1]
    assert bool(refused) == (name != "reply_twice")
    assert bool(repeated) == (name == "reply_twice")

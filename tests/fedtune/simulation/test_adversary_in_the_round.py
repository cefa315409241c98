"""The simulated liars lie as the recipe says, alone, and the rule does not know how many.

Not proven here: how well each rule withstands them; see the quickstart's claim.
"""

import pytest
import torch
from toy_federation import (
    ANCHOR,
    LAYOUT,
    honest,
    toy_app,
    toy_content,
    toy_recipe,
    toy_rounds,
    toy_server,
)

from fedtune.messages import wire
from fedtune.round.broadcast import Broadcast
from fedtune.round.screening.screen import RefusedError
from fedtune.simulation.adversary import Adversary, ThreatView, byzantine_clients
from fedtune.training.client_round import Poison
from fedtune.training.process import get_worker
from fedtune.transport.local import LocalTransport


def row_of(client):
    """Whole numbers, so that sums are exact: client k sends k + 1, and -(k + 1) in c."""
    return torch.cat([torch.full((12,), client + 1.0), torch.full((4,), -(client + 1.0))])


def plain(message, client):
    return toy_content(message, row_of(client))


def corrupted(attack, *, num_clients=5, content_of=plain, seed=0):
    """The row of each client after the liars have spoken; None of who stays silent."""
    recipe = toy_recipe(num_clients, attack=attack, seed=seed)
    transport = LocalTransport(toy_app(content_of), num_clients)
    server = toy_server(recipe, transport)
    sent = Broadcast(recipe, LAYOUT, ANCHOR, round_=1)
    server.begin_round(1)
    server.record.attempt = 0
    messages = server.orders_to_train(1)
    rows, fresh = {}, []
    ids = [transport.push(order, most=10**6) for order in messages]
    for client, pushed in enumerate(ids):
        (reply,) = transport.pull([pushed])
        try:
            server.intake.take(client, reply, sent.to(client), round_=1)
            fresh.append(client)
        except RefusedError:
            rows[client] = None
    spool = server.intake.spool
    lies = Adversary(recipe).crafted(spool, fresh, ThreatView(sent, 1))
    rows |= {client: lies[client] if client in lies else spool.row(client) for client in fresh}
    return rows, sorted(byzantine_clients(recipe))


def test_who_lies_follows_the_seed_and_not_the_attack_nor_the_rule():
    def liars(name, seed, num_attackers=3, rule="mean"):
        attack = {"name": name, "num_attackers": num_attackers}
        return byzantine_clients(
            toy_recipe(10, attack=attack, seed=seed, aggregator={"name": rule, "f": 3})
        )

    for seed in range(20):
        expected = liars("sign_flip", seed)
        assert len(expected) == 3
        assert expected <= set(range(10))
        for name in ("alie", "ipm", "gaussian", "silence", "label_noise"):
            assert liars(name, seed, rule="median") == expected
        assert liars("sign_flip", seed, num_attackers=2) < expected  # one more liar joins the two
    assert len({liars("alie", seed) for seed in range(20)}) > 10
    assert byzantine_clients(toy_recipe(10)) == frozenset()
    assert liars("alie", 0, num_attackers=0) == frozenset()
    assert len(liars("alie", 0, num_attackers=10)) == 10


def test_sign_flip_corrupts_exactly_the_liars_rows():
    # -10 (k + 1), and +10 (k + 1) in the last four: whole numbers, exact in float32.
    rows, liars = corrupted({"name": "sign_flip", "scale": 10, "num_attackers": 2})
    assert len(liars) == 2
    for client in range(5):
        expected = -10 * row_of(client) if client in liars else row_of(client)
        assert torch.equal(rows[client], expected), client


def test_a_liar_sees_what_it_is_granted():
    # ipm at epsilon 2 sends -2 times the mean of what it sees. Of 5 clients, 2 lie.
    everyone = torch.stack([row_of(client) for client in range(5)])
    attack = {"name": "ipm", "epsilon": 2.0, "num_attackers": 2}
    rows, liars = corrupted({**attack, "knowledge": "all"})
    others = [client for client in range(5) if client not in liars]
    for client in liars:
        assert torch.allclose(rows[client], -2 * everyone[others].mean(0))
    rows, liars = corrupted({**attack, "knowledge": "fellows"})
    for client in liars:
        assert torch.allclose(rows[client], -2 * everyone[liars].mean(0))
    strongest, _ = corrupted(attack)
    assert torch.allclose(strongest[liars[0]], -2 * everyone[others].mean(0))


def test_a_liar_that_sees_its_own_update_alone_flips_it():
    # of: mean over what it sees, which is its own row: -3 (k + 1), each liar by itself.
    attack = {"name": "sign_flip", "scale": 3, "of": "mean", "num_attackers": 2}
    rows, liars = corrupted({**attack, "knowledge": "own"})
    for client in liars:
        assert torch.equal(rows[client], -3 * row_of(client))
    rows, liars = corrupted({**attack, "knowledge": "fellows"})
    mean = torch.stack([row_of(client) for client in liars]).mean(0)
    assert all(torch.allclose(rows[client], -3 * mean) for client in liars)


def test_liars_know_nothing_of_replies_that_will_be_refused():
    # An honest client's reply of 1e30 under a foreign hash is no part of what the liars see.
    liars = corrupted({"name": "ipm", "num_attackers": 2})[1]
    broken = next(client for client in range(5) if client not in liars)

    def one_is_broken(message, client):
        content = plain(message, client)
        if client == broken:
            content = toy_content(message, torch.full((16,), 1e30))
            content.config_records[wire.ABOUT]["base_hash"] = "other"
        return content

    rows, _ = corrupted(
        {"name": "ipm", "epsilon": 1.0, "num_attackers": 2}, content_of=one_is_broken
    )
    seen = [row_of(client) for client in range(5) if client not in (*liars, broken)]
    assert rows[broken] is None
    assert torch.allclose(rows[liars[0]], -torch.stack(seen).mean(0))


def test_a_liar_that_crashes_has_not_lied():
    liars = corrupted({"name": "sign_flip", "num_attackers": 2})[1]

    def one_liar_crashes(message, client):
        if client == liars[0]:
            raise MemoryError
        return plain(message, client)

    attack = {"name": "sign_flip", "scale": 10, "num_attackers": 2}
    rows, _ = corrupted(attack, content_of=one_liar_crashes)
    assert rows[liars[0]] is None
    assert torch.equal(rows[liars[1]], -10 * row_of(liars[1]))


def test_an_attack_that_draws_draws_anew_each_round_and_alike_in_each_run():
    recipe = toy_recipe(3, attack={"name": "gaussian", "num_attackers": 3})
    once, _ = toy_rounds(recipe, toy_app(plain), rounds=2)
    again, _ = toy_rounds(recipe, toy_app(plain), rounds=2)
    first, _ = toy_rounds(recipe, toy_app(plain), rounds=1)
    assert torch.equal(once.outer.anchor, again.outer.anchor)
    step_1 = first.outer.anchor - ANCHOR
    step_2 = once.outer.anchor - first.outer.anchor
    assert not torch.allclose(step_1, step_2)


def test_silence_is_a_reply_that_never_came():
    recipe = toy_recipe(5, attack={"name": "silence", "num_attackers": 2})
    server, stepped = toy_rounds(recipe, toy_app(plain))
    liars = sorted(byzantine_clients(recipe))
    assert stepped == [True]
    assert server.record.refused == dict.fromkeys(liars, "it sent no reply")
    others = [row_of(client) for client in range(5) if client not in liars]
    assert torch.allclose(server.outer.anchor, ANCHOR + torch.stack(others).mean(0))


@pytest.mark.parametrize("name", ["mean", "krum", "trimmed_mean"])
def test_the_rule_does_not_know_how_many_lie(name):
    # A data attack leaves these clients' replies as they are: only the count of liars differs.
    anchors = []
    for num_attackers in (0, 1, 4):
        attack = {"name": "label_noise", "num_attackers": num_attackers}
        recipe = toy_recipe(7, aggregator={"name": name, "f": 2}, attack=attack)
        server, _ = toy_rounds(recipe, toy_app(honest), rounds=2)
        anchors.append(server.outer.anchor)
    assert torch.equal(anchors[0], anchors[1])
    assert torch.equal(anchors[0], anchors[2])


def test_f_is_what_the_rule_goes_by():
    # Trimmed mean of 0 1 2 3 4 with liars or none: f=1 drops one at each end, f=2 two.
    def counting(message, client):
        return toy_content(message, torch.full((16,), float(client) ** 2))

    moves = []
    for f in (0, 1, 2):
        recipe = toy_recipe(5, aggregator={"name": "trimmed_mean", "f": f})
        server, _ = toy_rounds(recipe, toy_app(counting))
        moves.append((server.outer.anchor - ANCHOR)[0].item())
    # squares 0 1 4 9 16: mean 6; without the ends 14 / 3; the middle 4.
    assert moves == pytest.approx([6, 14 / 3, 4])


def test_label_noise_poisons_the_liars_data_and_no_one_elses(tiny_recipe, run):
    recipe = tiny_recipe(
        federation={"num_rounds": 1},
        attack={"name": "label_noise", "num_attackers": 2},
    )
    clean = tiny_recipe(federation={"num_rounds": 1})
    losses = []
    for one in (recipe, clean):
        clients = run(one).read_metrics()[-1]["clients"]
        losses.append({int(client): facts["train_loss"] for client, facts in clients.items()})
    liars = byzantine_clients(recipe)
    assert {client for client in range(4) if losses[0][client] != losses[1][client]} == liars


def test_a_liars_held_out_rows_stay_as_they_are(tiny_recipe):
    noisy = get_worker(
        tiny_recipe(attack={"name": "label_noise", "num_attackers": 4}).model_dump_json()
    )
    before = noisy.evaluator.measure(noisy.initial, client=0)
    backwards = Poison("backwards", lambda rows: rows[::-1])
    noisy.trainer.train(noisy.initial, client=0, round_=1, poison=backwards)
    assert noisy.evaluator.measure(noisy.initial, client=0) == before

"""Votes in real runs: what is saved, what a stop in the middle of a vote costs, and every engine.

Not proven here: that a vote on real data undoes what harms; tests/fedtune/round/
test_votes_in_the_round.py has the cases by hand.
"""

import pytest
import torch
from left_by_a_run import adapter_bytes, eval_records
from network import locally, new_deployment, start

from fedtune.messages.message import REVEAL_VOTE, VOTE
from fedtune.recipe import parse_recipe
from fedtune.records.checkpoint import load_latest
from fedtune.records.folder import RunFolder
from fedtune.simulation import client
from fedtune.training.process import get_worker
from fedtune.transport.flower.deployment_rehearsal import rehearse
from fedtune.transport.local import LocalTransport

TAKEOVER = {"name": "on_off", "epsilon": 3000.0, "num_attackers": 1, "votes": "rise"}


def guarded(tiny_recipe, *, num_rounds=4, **sections):
    """Four clients, of which one takes over the mean in round 3, and in no other."""
    federation = sections.pop("federation", {})
    return tiny_recipe(
        data={"test_fraction": 0.25},
        federation={"num_clients": 4, "num_rounds": num_rounds, **federation},
        aggregator={"name": "mean", "f": 1},
        outer={"name": "nesterov", "lr": 0.7, "momentum": 0.5},
        attack={**TAKEOVER, "honest_rounds": 2, "period": 1},
        defence={"vote": {"tolerance": 0.005}},  # a model of chance weights has little to lose
        checkpoint={"keep": 9},
        **sections,
    )


def decisions(folder):
    return [record["vote"]["decided"] for record in folder.read_metrics()[1:]]


def votes(folder):
    return [record["vote"] for record in folder.read_metrics()[1:]]


def test_a_takeover_in_the_last_round_is_not_what_is_saved(tiny_recipe, run):
    folder = run(guarded(tiny_recipe, num_rounds=3))
    assert decisions(folder) == ["accepted", "accepted", "undone"]
    records = folder.read_metrics()
    assert [record.get("undone_rounds") for record in records] == [None, 0, 0, 1]
    tries = records[3]["vote"]["tries"]
    assert [(each["scale"], each["undone"]) for each in tries] == [(1.0, True), (0.5, True)]
    assert records[3]["eval"] == records[2]["eval"]
    assert records[3]["revision"] == records[2]["revision"]
    newest = load_latest(folder.checkpoints)
    assert newest.round == 3
    worker = get_worker(RunFolder.open(folder.path)[1].model_dump_json())
    assert torch.equal(worker.load_adapter(folder.adapter), newest.anchor)
    unguarded = run(guarded(tiny_recipe, num_rounds=3).model_copy(
        update={"defence": parse_recipe({}).defence}))  # fmt: skip
    base, ruined = (unguarded.read_metrics()[k]["eval"]["loss"] for k in (0, 3))
    assert ruined > records[3]["eval"]["loss"] + 0.02
    assert base > records[3]["eval"]["loss"]


class StoppingTransport(LocalTransport):
    """Ends the process' work, as Ctrl-C does, at the k-th reply of a kind."""

    def __init__(self, kind, at, num_clients=4):
        super().__init__(client.app, num_clients)
        self.kind, self.left = kind, at

    def pull(self, ids):
        replies = super().pull(ids)
        for reply in replies:
            self.left -= reply.kind == self.kind
            if self.left == 0:
                raise KeyboardInterrupt
        return replies


def test_a_stop_between_candidate_and_vote_changes_no_bit(tiny_recipe, run):
    # Four votes a round, and in round 3 another four on half of its step.
    whole = run(guarded(tiny_recipe))
    assert decisions(whole) == ["accepted", "accepted", "undone", "accepted"]
    for kind, at, done in ((REVEAL_VOTE, 16, 2), (VOTE, 20, 3)):
        folder, recipe = RunFolder.create(guarded(tiny_recipe))
        with pytest.raises(KeyboardInterrupt):
            run.resume(recipe, folder, transport=StoppingTransport(kind, at))
        assert load_latest(folder.checkpoints).round == done  # no candidate is ever saved
        folder, recipe = RunFolder.open(folder.path)
        run.resume(recipe, folder)
        assert adapter_bytes(folder) == adapter_bytes(whole)
        assert eval_records(folder) == eval_records(whole)
        assert votes(folder) == votes(whole)
        assert folder.read_metrics()[-1]["undone_rounds"] == 1


@pytest.mark.slow
def test_kills_around_votes_change_no_bit(tiny_recipe, run, forked):
    whole, _ = RunFolder.create(guarded(tiny_recipe))
    touches = forked(whole)["touches"]
    for at in range(3, touches, max(1, touches // 20)):
        folder, _ = RunFolder.create(guarded(tiny_recipe))
        assert forked(folder, kill_at_touch=at)["killed"]
        assert "raised" not in forked(folder)
        assert adapter_bytes(folder) == adapter_bytes(whole)
        assert eval_records(folder) == eval_records(whole)
        assert votes(folder) == votes(whole)


@pytest.mark.slow
def test_ray_votes_as_local_does(tiny_recipe, forked):
    folders = []
    for engine in ("local", "ray"):
        recipe = guarded(tiny_recipe, federation={"engine": engine})
        folder, _ = RunFolder.create(recipe)
        done = forked(folder)
        assert "raised" not in done, done["raised"]
        folders.append(folder)
    local, ray = folders
    assert decisions(local) == ["accepted", "accepted", "undone", "accepted"]
    assert adapter_bytes(local) == adapter_bytes(ray)
    assert eval_records(local) == eval_records(ray)
    assert votes(local) == votes(ray)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_nodes_vote_as_local_does_and_a_private_one_does_not(tmp_path):
    keys = ("defence.vote=true", "aggregator.name=mean", "aggregator.f=1")
    deployment = new_deployment(tmp_path / "fed")
    with rehearse(deployment, say=print):
        ran = start(deployment, tmp_path / "net", print, *keys)
        beside = locally(tmp_path / "local", *keys)
        assert adapter_bytes(ran) == adapter_bytes(beside)
        assert votes(ran) == votes(beside)
        assert [each["tries"][0]["counted"] for each in votes(ran)] == [3, 3, 3]
        config = deployment.node_folders[0] / "node.yaml"
        asked = "privacy: {clipping_norm: 1.0, epsilon: 0.9, delta: 1.0e-6}"
        kept = [line for line in config.read_text().splitlines() if "privacy:" not in line]
        config.write_text("\n".join([*kept, asked]))
        private = start(deployment, tmp_path / "private", print, *keys, "federation.num_rounds=1")
    (only,) = votes(private)
    assert only["decided"] == "no decision"
    (reason,) = only["tries"][0]["not_counted"].values()
    assert "keeps its figures to itself" in reason

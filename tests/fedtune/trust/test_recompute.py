"""`fedtune verify --recompute`: the rounds once more from kept replies, to the record's anchors.

Not proven here: the tolerance on a machine of another kind; another stack is only claimed.
"""

import json
from pathlib import Path
from shutil import copytree

import pytest
import torch
from recorded_runs import forge, lines_of, record
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder
from fedtune.messages import wire
from fedtune.messages.message import Array
from fedtune.records.folder import RunFolder
from fedtune.round.screening.kept_replies import KEPT, KeptReplies
from fedtune.simulation import client

KEEP = {"keep_replies": True}


def verify(folder, *words):
    done = CliRunner().invoke(app, ["verify", str(folder.path), "--recompute", *words])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def deployment(tmp_path):
    return DeploymentFolder.create(tmp_path / "fed", 4, "127.0.0.1", 9443)


def product(name, **options):
    return {"name": name, "f": 1, "geometry": "product", **options}


RECIPES = {
    "default": {},
    "momentum and suspicion": {
        "aggregator": {"name": "caf", "f": 1, "geometry": "factors"},
        "defence": {"momentum": 0.5, "suspicion": 0.5},
        "outer": {"name": "nesterov", "momentum": 0.5},
    },
    "centre in products": {
        "aggregator": product("centered_clipping"),
        "outer": {"name": "nesterov", "momentum": 0.5},
    },
    "residual": {"aggregator": product("geometric_median", residual="carry")},
    "ranks": {
        "aggregator": product("geometric_median"),
        "lora": {"client_ranks": [2, 1, 2, 1]},
    },
    "rows in the anchor's gauge": {
        "aggregator": product("median", mixing=["nnm"], combination="factors")
    },
    "dense": {"aggregator": product("median", combination="dense")},
    "alternate, drawn": {
        "aggregator": {"name": "geometric_median", "mixing": ["bucketing"], "geometry": "factors"},
        "lora": {"train": "alternate"},
        "outer": {"name": "adam"},
    },
    "sampled and committed": {
        "aggregator": {"name": "mean", "client_weights": [1.0, 2.0, 3.0, 4.0]},
        "federation": {"clients_per_round": 3, "commit_then_reveal": True},
    },
    "trial": {
        "aggregator": {"name": "mean"},
        "data": {"server_rows": 8},
        "defence": {"server_data": {"tolerance": 0.0}},
        "train": {"learning_rate": 0.3},
    },
    "vote": {"aggregator": {"name": "mean"}, "defence": {"vote": {"tolerance": 0.0}}},
}


QUICK = {"default", "momentum and suspicion", "vote"}


@pytest.mark.parametrize(
    "name",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES],
)
def test_every_anchor_comes_out_of_the_replies_to_the_bit(run, tiny_recipe, name):
    sections = RECIPES[name]
    federation = {**KEEP, **sections.get("federation", {})}
    folder = run(tiny_recipe(**{**sections, "federation": federation}))
    code, said = verify(folder)
    assert code == 0, said
    for round_ in (1, 2, 3):
        assert f"round {round_}: recomputed, the same bits" in said


@pytest.mark.slow
def test_the_trial_of_that_recipe_undoes_steps(run, tiny_recipe):
    sections = {**RECIPES["trial"], "federation": KEEP}
    lines = lines_of(run(tiny_recipe(**sections)))
    undone = [each["undone"] for line in lines[1:] for each in line["trial"]["tries"]]
    assert any(undone)


def test_who_has_proven_faulty_takes_one_off_f_again(run, tiny_recipe, lying, deployment):
    def nan(content):
        name = next(iter(content["delta"]))
        values = content["delta"][name].numpy().copy()
        values.flat[0] = float("nan")
        content["delta"][name] = Array.of(values)
        return content

    recipe = tiny_recipe(
        aggregator={"name": "trimmed_mean", "f": 2, "geometry": "factors"},
        federation={**KEEP, "num_clients": 6, "num_rounds": 1},
    )
    folder = run(recipe, app=lying(nan, liars={2}))
    lines = lines_of(folder)
    assert (lines[1]["proven_faulty"], lines[1]["f"]) == ([2], 1)
    code, said = verify(folder)
    assert code == 0, said
    # Had it merely been silent, f would have stayed, and the step been another.
    lines[1] |= {"proven_faulty": [], "f": 2}
    forge(folder, deployment, lines)
    code, said = verify(folder)
    assert code == 1
    assert "round 1: its replies lead to another anchor" in said


_made = {}


@pytest.fixture
def kept(tiny_recipe, deployment, tmp_path, tmp_path_factory):
    """A copy of one run whose replies are kept; signed by a server that the test has the key of."""
    if not _made:
        at = tmp_path_factory.mktemp("kept") / "run"
        rule = {"name": "geometric_median", "f": 1, "geometry": "factors"}
        recipe = tiny_recipe(aggregator=rule, federation=KEEP, output_dir=str(at))
        _made["at"] = record(recipe, deployment).path
    return RunFolder(copytree(_made["at"], tmp_path / "kept"))


def test_a_forged_step_is_found(kept, deployment):
    """The server steps elsewhere in round 2, and writes an honest-looking record of it."""
    lines = lines_of(kept)
    keep = KeptReplies(kept.path / KEPT)
    row, layout = keep.anchor(2)
    moved = row + 1e-2 * torch.ones_like(row)
    keep.put_anchor(2, moved, layout)
    lines[2]["next_anchor"] = lines[3]["anchor"] = wire.hash_row(moved, layout)
    forge(kept, deployment, lines)
    code, said = verify(kept, "--ca", str(deployment.ca))
    assert code == 1
    assert "round 1: recomputed, the same bits" in said
    assert "round 2: its replies lead to another anchor than the record says" in said


def test_a_forged_weight_is_found(kept, deployment):
    lines = lines_of(kept)
    lines[3]["clients"]["0"]["weight"] = 0.01
    forge(kept, deployment, lines)
    code, said = verify(kept)
    assert code == 1
    assert "round 3: client 0 has a weight of 0.01: by the replies 0.2" in said


def test_another_rule_in_recipe_and_manifest_is_found(kept, deployment):
    """For who has the replies, no node's log is needed."""
    edited = kept.recipe.read_text().replace("name: geometric_median", "name: median")
    kept.recipe.write_text(edited)

    def rebind(facts):
        recipe = json.loads(facts["recipe"])
        recipe["aggregator"]["name"] = "median"
        facts["recipe"] = json.dumps(recipe)

    forge(kept, deployment, manifest=rebind)
    code, said = verify(kept)
    assert code == 1
    assert "recipe.yaml" not in said
    assert "round 1: its replies lead to another anchor than the record says" in said


def test_another_reply_than_the_one_that_was_counted_is_found(kept):
    one, other = (kept.path / KEPT / f"round-0002/client-00000{k}.reply" for k in (1, 2))
    one.write_bytes(other.read_bytes())
    code, said = verify(kept)
    assert code == 1
    assert "round 2: the kept reply of client 1 is not the one that was counted" in said


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("round-0002/client-000001.reply", Path.unlink, "client-000001.reply"),
        ("round-0002/client-000001.reply", lambda path: path.write_bytes(b"\x07"), "client 1"),
        ("round-0001/anchor.safetensors", Path.unlink, "anchor.safetensors"),
        ("round-0000/anchor.safetensors", lambda path: path.write_bytes(b"x"), "is damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named(kept, name, damage, told):
    damage(kept.path / KEPT / name)
    code, said = verify(kept)
    assert code == 1
    assert "recompute:" in said or "round 2:" in said
    assert told in said


def test_a_kept_anchor_that_the_record_does_not_name_is_found(kept):
    path = kept.path / KEPT / "round-0002/anchor.safetensors"
    tensors = load_file(path)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, path)
    code, said = verify(kept)
    assert code == 1
    assert "round 2: the kept anchor is not the one that the record says" in said


def elsewhere(facts):
    facts["hardware"]["machine"] = "another"


def test_on_another_machine_a_thousandth_of_the_step_is_let(kept, deployment):
    lines, keep = lines_of(kept), KeptReplies(kept.path / KEPT)
    (before, layout), (row, _) = keep.anchor(1), keep.anchor(2)
    for share, passes in ((5e-4, True), (5e-2, False)):
        moved = row + share * (row - before)
        keep.put_anchor(2, moved, layout)
        lines[2]["next_anchor"] = lines[3]["anchor"] = wire.hash_row(moved, layout)
        # The last round's replies were measured from the true anchor: its line is not looked at.
        forge(kept, deployment, lines, manifest=elsewhere)
        said = verify(kept)[1]
        assert ("round 2: recomputed on another machine" in said) == passes
        assert ("round 2: its replies lead to another anchor" in said) != passes


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        (
            {"aggregator": {"name": "median", "f": 1},
             "attack": {"name": "sign_flip", "num_attackers": 1}},
            "attack: this run is a simulation",
        ),
        (
            {"aggregator": {"name": "fltrust", "f": 1, "geometry": "factors"},
             "data": {"server_rows": 8}},
            "aggregator.name: fltrust compares with an update of the server's own rows",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_recomputed_is_refused_by_name(run, tiny_recipe, sections, told):
    folder = run(tiny_recipe(**sections, federation=KEEP))
    code, said = verify(folder)
    assert code == 1
    assert f"recompute: {told}" in said


def test_nothing_is_kept_unless_asked_for(run, tiny_recipe):
    folder = run(tiny_recipe(aggregator={"name": "mean"}))
    assert not (folder.path / KEPT).exists()
    code, said = verify(folder)
    assert code == 1
    assert "kept_replies" in said


def test_a_run_that_was_resumed_is_recomputed_whole(run, tiny_recipe):
    recipe = tiny_recipe(aggregator={"name": "centered_clipping", "f": 1}, federation=KEEP)

    calls = []

    def dies(message, context):
        calls.append(message.kind)
        if calls.count("train") == 6:  # in round 2
            raise KeyboardInterrupt
        return client.app(message, context)

    with pytest.raises(KeyboardInterrupt):
        run(recipe, app=dies)
    folder, recipe = RunFolder.open(recipe.output_dir)
    run.resume(recipe, folder)
    code, said = verify(folder)
    assert code == 0, said
    assert said.count("the same bits") == 3

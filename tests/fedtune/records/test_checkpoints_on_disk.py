"""A checkpoint is whole or it does not count, and a run's folder is never overwritten.

Not proven here: what a power cut does to a disk that lies about having written.
"""

import json

import pytest
import torch

from fedtune.recipe import parse_recipe
from fedtune.records.checkpoint import Checkpoint, load_latest
from fedtune.records.folder import RunFolder
from fedtune.records.lines import RoundRecord


def checkpoint(round_, *, size=50):
    draw = torch.Generator().manual_seed(round_)
    anchor, momentum, center = torch.randn(3, size, generator=draw)
    state = {"anchor": anchor, "outer/both/momentum_buffer": momentum, "rule/both/center": center}
    return Checkpoint(round_, state, 100 * round_, "layout")


def save_rounds(root, *rounds, keep=2):
    for round_ in rounds:
        checkpoint(round_).save(root, keep=keep)


def test_a_checkpoint_comes_back_to_the_bit(tmp_path):
    saved = checkpoint(7)
    saved.save(tmp_path, keep=1)
    loaded = load_latest(tmp_path)
    assert loaded.round == 7
    assert loaded.metrics_bytes == 700
    assert loaded.layout_hash == "layout"
    assert loaded.revision == saved.revision
    assert torch.equal(loaded.anchor, saved.anchor)
    assert loaded.state.keys() == saved.state.keys()
    assert all(torch.equal(loaded.state[name], saved.state[name]) for name in saved.state)


def test_the_revision_knows_every_number_and_where_it_stands():
    base = checkpoint(1)
    assert base.revision == checkpoint(1).revision
    moved = checkpoint(1).state
    moved["rule/both/center"][3] += 1e-7
    momentum, center = "outer/both/momentum_buffer", "rule/both/center"
    turned = base.state | {momentum: base.state[center], center: base.state[momentum]}
    swapped = Checkpoint(1, turned, 100, "layout")
    revised = Checkpoint(1, moved, 100, "layout")
    elsewhere = Checkpoint(1, base.state, 100, "other layout")
    revisions = {c.revision for c in (base, revised, swapped, elsewhere)}
    assert len(revisions) == 4


def test_no_checkpoint_is_none(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "nowhere") is None


def test_only_the_newest_are_kept_also_beyond_round_9999(tmp_path):
    save_rounds(tmp_path, 1, 2, 3, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-0002", "round-0003"]
    save_rounds(tmp_path, 9998, 9999, 10_000, 10_001, keep=2)
    assert load_latest(tmp_path).round == 10_001
    assert sorted(path.name for path in tmp_path.iterdir()) == ["round-10000", "round-10001"]


def damage(folder, how):
    state, facts = folder / "state.safetensors", folder / "state.json"
    if how == "a number":
        raw = bytearray(state.read_bytes())
        raw[-7] ^= 1
        state.write_bytes(raw)
    elif how == "half a file":
        state.write_bytes(state.read_bytes()[:300])
    elif how == "an empty file":
        state.write_bytes(b"")
    elif how == "no tensors":
        state.unlink()
    elif how == "no facts":
        facts.unlink()
    elif how == "half the facts":
        facts.write_text(facts.read_text()[:40])
    elif how == "a list":
        facts.write_text("[1, 2]")
    elif how == "no bytes of text":
        facts.write_bytes(b"\xff\xfe\x00")
    else:  # a fact is missing or changed
        words = json.loads(facts.read_text())
        key, value = how
        words.pop(key) if value is None else words.update({key: value})
        facts.write_text(json.dumps(words))


DAMAGES = [
    "a number", "half a file", "an empty file", "no tensors", "no facts", "half the facts",
    "a list", "no bytes of text", ("revision", None), ("round", None), ("metrics_bytes", None),
    ("revision", "0" * 64), ("layout_hash", "other"), ("round", 1), ("metrics_bytes", 17),
]  # fmt: skip


@pytest.mark.parametrize("how", DAMAGES, ids=str)
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, how):
    save_rounds(tmp_path, 4, 5)
    damage(tmp_path / "round-0005", how)
    loaded = load_latest(tmp_path)
    assert loaded.round == 4
    assert loaded.revision == checkpoint(4).revision


def test_all_damaged_is_an_error_that_says_so(tmp_path):
    save_rounds(tmp_path, 4, 5)
    for folder in tmp_path.iterdir():
        damage(folder, "a number")
    with pytest.raises(ValueError, match="all 2 checkpoints are damaged; start the run anew"):
        load_latest(tmp_path)


def test_a_round_that_is_run_again_replaces_its_damaged_checkpoint(tmp_path):
    save_rounds(tmp_path, 4, 5)
    damage(tmp_path / "round-0005", "half a file")
    save_rounds(tmp_path, 5)
    assert load_latest(tmp_path).revision == checkpoint(5).revision


def test_what_a_kill_leaves_half_done_is_harmless(tmp_path):
    save_rounds(tmp_path, 4, 5)
    for name in (".round-0006.tmp", ".round-0005.tmp"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.safetensors").write_bytes(b"half")
    (tmp_path / "round-notes").mkdir()  # a person's own
    (tmp_path / "round-0099").write_text("not a folder")
    assert load_latest(tmp_path).round == 5
    save_rounds(tmp_path, 6)
    assert load_latest(tmp_path).round == 6
    assert sorted(path.name for path in tmp_path.glob("round-0*") if path.is_dir()) == [
        "round-0005",
        "round-0006",
    ]
    assert (tmp_path / "round-notes").is_dir()


def test_a_folder_that_holds_a_run_is_left_alone(tmp_path):
    recipe = parse_recipe({"output_dir": str(tmp_path / "run")})
    first, first_recipe = RunFolder.create(recipe)
    (first.path / "metrics.jsonl").write_text("{}\n")
    second, second_recipe = RunFolder.create(recipe)
    third, _ = RunFolder.create(recipe)
    assert [folder.path.name for folder in (first, second, third)] == ["run", "run-2", "run-3"]
    assert first_recipe.output_dir == first.path
    assert second_recipe.output_dir == second.path
    assert (first.path / "metrics.jsonl").read_text() == "{}\n"
    assert sorted(path.name for path in second.path.iterdir()) == ["recipe.yaml"]


def test_an_empty_folder_is_used_and_a_foreign_one_is_not(tmp_path):
    (tmp_path / "run").mkdir()
    recipe = parse_recipe({"output_dir": str(tmp_path / "run")})
    assert RunFolder.create(recipe)[0].path.name == "run"
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    recipe = parse_recipe({"output_dir": str(tmp_path / "photos")})
    assert RunFolder.create(recipe)[0].path.name == "photos-2"


def test_a_folder_opens_with_the_recipe_it_was_made_with_wherever_it_lies(tmp_path):
    recipe = parse_recipe(
        {"output_dir": str(tmp_path / "run"), "aggregator": {"name": "krum", "f": 1},
         "train": {"learning_rate": 1e-3}, "outer": {"name": "nesterov", "lr": 0.1}}
    )  # fmt: skip
    folder, recipe = RunFolder.create(recipe)
    _, opened = RunFolder.open(folder.path)
    assert opened.model_dump_json() == recipe.model_dump_json()
    folder.path.rename(tmp_path / "moved")
    moved, opened = RunFolder.open(tmp_path / "moved")
    assert opened.output_dir == moved.path == tmp_path / "moved"
    with pytest.raises(FileNotFoundError, match=r"holds no run: it needs a recipe\.yaml"):
        RunFolder.open(tmp_path / "run")


def test_a_line_that_a_kill_cut_off_is_no_record(tmp_path):
    folder = RunFolder(tmp_path)
    assert folder.read_metrics() == []
    folder.append_metrics(RoundRecord.model_validate({"round": 0}))
    size = folder.metrics_bytes()
    folder.append_metrics(RoundRecord.model_validate({"round": 1}))
    with folder.metrics.open("a") as stream:
        stream.write('{"round": 2, "ev')
    assert [line["round"] for line in folder.read_metrics()] == [0, 1]
    folder.truncate_metrics(size)
    assert folder.metrics_bytes() == size
    assert [line["round"] for line in folder.read_metrics()] == [0]


def test_an_adapter_is_replaced_whole(tmp_path):
    folder = RunFolder(tmp_path)
    (tmp_path / ".adapter.tmp").mkdir()
    (tmp_path / ".adapter.tmp" / "left-over").touch()

    def write(text):
        def into(path):
            path.mkdir()
            (path / "adapter").write_text(text)

        return into

    folder.replace_adapter(write("old"))
    folder.replace_adapter(write("new"))
    assert [path.name for path in folder.adapter.iterdir()] == ["adapter"]
    assert (folder.adapter / "adapter").read_text() == "new"

    def fail(path):
        path.mkdir()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        folder.replace_adapter(fail)
    assert (folder.adapter / "adapter").read_text() == "new"

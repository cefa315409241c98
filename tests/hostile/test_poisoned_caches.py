"""What stays on a node from one run to the next, or lies where other accounts write.

Not proven here: the caches of the hub, of datasets and of torch in a folder that the owner shares
with other accounts by choice (HF_HOME, XDG_CACHE_HOME): who can write there is trusted.
"""

import json
import os

import pytest
import torch

from fedtune.messages.message import ConfigRecord, RecordDict
from fedtune.messages.packing import pack
from fedtune.nano import python_docs
from fedtune.node.worker import Desk
from fedtune.recipe import Data
from fedtune.training import inner_state, sources
from fedtune.training.tasks import TASKS


def states(value):
    return {0: {"exp_avg": torch.full((2,), float(value))}}


def value_in(folder, before):
    found = inner_state.load(folder, before=before)
    return None if found is None else float(found[0]["exp_avg"][0])


def test_one_run_leaves_no_optimizer_state_to_another(tmp_path):
    """A run of a hostile server leaves states of late rounds; those of the next were dropped."""
    theirs = inner_state.folder_of("theirs", tmp_path) / "0000"
    for round_ in range(90, 96):
        inner_state.save(states(-1), theirs, round_=round_, keep=3)
    ours = inner_state.folder_of("ours", tmp_path) / "0000"
    for round_ in range(1, 6):
        assert value_in(ours, before=round_) == (None if round_ == 1 else round_ - 1)
        inner_state.save(states(round_), ours, round_=round_, keep=3)
    assert value_in(ours, before=100) == 5


def test_a_servers_word_for_its_run_is_no_path_and_old_runs_go(tmp_path):
    root = tmp_path / "clients"
    for number, name in enumerate(["../../etc", "/etc", "", "a\0b", "x" * 10_000, "c", "d"]):
        folder = inner_state.folder_of(name, root)
        assert folder.parent == root
        assert folder.is_dir()
        os.utime(folder, (number, number))
    kept = {inner_state.folder_of(name, root) for name in ("d",)}
    assert len(list(root.iterdir())) == inner_state.MOST_RUNS
    assert kept < set(root.iterdir())
    assert [path.name for path in tmp_path.iterdir()] == ["clients"]


def test_a_node_keeps_states_apart_by_what_names_the_run():
    seen = []

    def answer(message, context):
        seen.append(context.node_config["run"])
        return message.reply(RecordDict())

    desk = Desk(answer, lambda text: (text, {}))
    for manifest in ("1" * 64, "2" * 64):
        words = {"recipe": "{}", "manifest": manifest}
        order = RecordDict({"order": ConfigRecord(words)})
        body = pack(order)
        desk.reply_to({"kind": "query", "client": 0, "run_id": 1, "node_id": 2}, body)
    assert seen == ["1" * 64, "2" * 64]


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Rows of an owner's own, and an empty cache of datasets."""
    import datasets

    path = tmp_path / "rows.jsonl"
    words = [{"prompt": f"{k}", "completion": "x"} for k in range(8)]
    path.write_text("".join(json.dumps(each) + "\n" for each in words))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "IN_MEMORY_MAX_SIZE", 0.0)
    yield Data(source=str(path))
    datasets.enable_caching()


def prepared(rows, length):
    """As TRL prepares them, by a number of the server's."""
    found = sources.load_rows(rows, TASKS["sft"], seed=0)
    return found.map(lambda row: {"cut": row["completion"][:length]})


def test_no_choice_of_a_server_leaves_a_copy_of_the_rows_on_a_nodes_disk(rows, tmp_path):
    prepared(rows, 1)
    assert list((tmp_path / "cache").rglob("cache-*.arrow"))  # as it was, and is on one machine
    for left in (tmp_path / "cache").rglob("cache-*.arrow"):
        left.unlink()
    sources.keep_no_copies()
    for length in range(5):
        assert prepared(rows, length).cache_files == []
    assert not list((tmp_path / "cache").rglob("cache-*.arrow"))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root to chown")
def test_a_cache_that_another_account_has_written_is_passed_over(tmp_path):
    """The hash in the file has no key: whoever writes it anew makes it anew."""
    path = tmp_path / "shared" / "python-docs.jsonl"
    poison = [{"prompt": "p", "completion": "c", "module": "m", "name": "n"}]
    python_docs._write_cache(path, poison)
    assert python_docs._read_cache(path) == poison
    os.chown(path, 65534, 65534)
    assert python_docs._read_cache(path) is None

"""SIGKILL at any moment, resume, and the adapter is the uninterrupted run's to the byte.

Real processes are killed, from outside at moments of chance or at their k-th touch of the run's
folder: see forked_runs.py.

Not proven here: a kill in the middle of one write call, or of Ray's processes.
"""

import random

import pytest
from left_by_a_run import adapter_bytes, eval_records

from fedtune.records.folder import RunFolder


@pytest.fixture
def stateful(tiny_recipe):
    """A small run with every kind of state: inner optimizer, momentum, the rule's centre; two of
    each, as the rounds train B and A in turn.
    """
    return tiny_recipe(
        lora={"lora_dropout": 0.1, "train": "alternate"},
        federation={"num_clients": 3, "clients_per_round": 2, "inner_optimizer": "keep"},
        aggregator={"name": "centered_clipping"},
        outer={"name": "nesterov", "lr": 0.7, "momentum": 0.9},
        attack={"name": "gaussian", "num_attackers": 1, "std": 0.5},
        evaluation={"per_client": True, "samples": 1, "max_new_tokens": 4},
    )


def finish(folder, forked):
    done = forked(folder)
    assert "raised" not in done, done["raised"]
    assert not done["killed"]
    return done


def assert_same_run(folder, reference):
    assert adapter_bytes(folder) == adapter_bytes(reference)
    assert eval_records(folder) == eval_records(reference)
    assert [line["round"] for line in folder.read_metrics()] == [0, 1, 2, 3]
    samples = [(each.path / "samples.jsonl").read_text() for each in (folder, reference)]
    assert samples[0] == samples[1]
    left_over = [path.name for path in folder.path.rglob(".*")]
    assert left_over == [], left_over


def kill_and_resume(recipe, forked, *, seed, by_touch, by_time):
    reference, _ = RunFolder.create(recipe)
    whole = finish(reference, forked)
    draw = random.Random(seed)
    orders = [{"kill_at_touch": draw.randint(1, whole["touches"])} for _ in range(by_touch)]
    orders += [{"kill_after_s": draw.uniform(0, whole["took_s"])} for _ in range(by_time)]
    killed = 0
    for order in orders:
        folder, _ = RunFolder.create(recipe)
        killed += forked(folder, **order)["killed"]
        finish(folder, forked)
        assert_same_run(folder, reference)
    assert killed >= by_touch  # a moment of chance may come after the end
    return reference, whole


@pytest.mark.slow
def test_two_kills_change_no_bit(stateful, forked):
    kill_and_resume(stateful, forked, seed=1, by_touch=1, by_time=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3, 4, 5])
def test_a_hundred_kills_change_no_bit(stateful, forked, seed):
    kill_and_resume(stateful, forked, seed=seed, by_touch=15, by_time=10)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(stateful, forked):
    reference, _ = RunFolder.create(stateful)
    whole = finish(reference, forked)
    folder, _ = RunFolder.create(stateful)
    draw = random.Random(3)
    for _ in range(12):
        forked(folder, kill_at_touch=draw.randint(1, whole["touches"] // 2))
    finish(folder, forked)
    assert_same_run(folder, reference)


def test_a_finished_run_that_is_resumed_stays_as_it_is(stateful, run):
    folder = run(stateful)
    before = adapter_bytes(folder), folder.metrics.read_bytes()
    again, recipe = RunFolder.open(folder.path)
    run.resume(recipe, again)
    assert (adapter_bytes(again), again.metrics.read_bytes()) == before


def test_a_damaged_newest_checkpoint_costs_a_round_and_no_bit(stateful, run):
    folder = run(stateful)
    before = adapter_bytes(folder), eval_records(folder)
    newest = max(folder.checkpoints.iterdir())
    assert newest.name == "round-0003"
    state = newest / "state.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"\x7f")
    (folder.checkpoints / ".round-0003.tmp").mkdir()
    folder, recipe = RunFolder.open(folder.path)
    run.resume(recipe, folder)
    assert (adapter_bytes(folder), eval_records(folder)) == before
    assert [line["round"] for line in folder.read_metrics()] == [0, 1, 2, 3]


def test_the_oldest_checkpoint_finds_the_clients_optimizers_as_they_were(tiny_recipe, run):
    # Four checkpoints are kept, and three of them are damaged: round 2 is run from round 1's.
    recipe = tiny_recipe(
        federation={"num_clients": 2, "num_rounds": 4, "inner_optimizer": "keep"},
        checkpoint={"keep": 4},
    )
    folder = run(recipe)
    before = adapter_bytes(folder), eval_records(folder)
    for name in ("round-0002", "round-0003", "round-0004"):
        (folder.checkpoints / name / "state.json").unlink()
    folder, recipe = RunFolder.open(folder.path)
    run.resume(recipe, folder)
    assert (adapter_bytes(folder), eval_records(folder)) == before


def test_a_run_whose_every_checkpoint_is_damaged_says_so(stateful, run):
    folder = run(stateful)
    for checkpoint in folder.checkpoints.iterdir():
        (checkpoint / "state.json").write_text("{}")
    folder, recipe = RunFolder.open(folder.path)
    with pytest.raises(ValueError, match="all 2 checkpoints are damaged; start the run anew"):
        run.resume(recipe, folder)

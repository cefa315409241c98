"""SIGKILL at any moment, resume, and the adapter is the uninterrupted run's to the byte.

A process of its own imports once and forks a child for each run. A child is killed from outside
at a moment of chance, or kills itself at its k-th touch of the run's folder: an opened file, a
made or removed folder, a rename, a truncation. The second kind lands inside the writing of
checkpoints, records and adapter, where a moment of chance seldom falls.

Not proven here: a kill in the middle of one write call, or of Ray's processes.
"""

import json
import os
import random
import subprocess
import sys

import pytest
from left_by_a_run import adapter_bytes, eval_records

from fedtune.federation.folder import RunFolder

PROGRAM = r"""
import json, os, signal, sys, time
from pathlib import Path
from fedtune.federation.engines import execute
from fedtune.federation.folder import RunFolder

TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate"}

def watch(folder, kill_at):
    touched = 0
    def hook(event, args):
        nonlocal touched
        if event in TOUCHES and any(str(arg).startswith(folder) for arg in args):
            touched += 1
            if touched == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    return lambda: touched

def child(order, answer):
    touches = watch(order["folder"] + os.sep, order.get("kill_at_touch"))
    folder, recipe = RunFolder.open(Path(order["folder"]))
    execute(recipe, folder)
    os.write(answer, str(touches()).encode())

for line in sys.stdin:
    order = json.loads(line)
    read_end, write_end = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            child(order, write_end)
        finally:
            os._exit(0)
    os.close(write_end)
    if order.get("kill_after_s") is not None:
        time.sleep(order["kill_after_s"])
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    took_s = time.monotonic() - started
    touches = os.read(read_end, 100).decode()
    os.close(read_end)
    killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    done = {"killed": killed, "touches": int(touches or 0), "took_s": took_s}
    print(json.dumps(done), flush=True)
"""


@pytest.fixture(scope="module")
def runner():
    """Return a function: an order -> what became of the child that carried it out."""
    helper = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )

    def carry_out(folder, **order):
        helper.stdin.write(json.dumps({"folder": str(folder.path), **order}) + "\n")
        helper.stdin.flush()
        return json.loads(helper.stdout.readline())

    yield carry_out
    helper.stdin.close()
    helper.wait(60)
    helper.stdout.close()


@pytest.fixture
def stateful(tiny_recipe):
    """A small run with every kind of state: inner optimizer, momentum, the rule's centre."""
    return tiny_recipe(
        lora={"lora_dropout": 0.1},
        federation={"num_clients": 3, "clients_per_round": 2, "inner_optimizer": "keep"},
        aggregator={"name": "centered_clipping"},
        outer={"name": "nesterov", "lr": 0.7, "momentum": 0.9},
        attack={"name": "gaussian", "num_attackers": 1, "std": 0.5},
        evaluation={"per_client": True, "samples": 1, "max_new_tokens": 4},
    )


def finish(folder, runner):
    done = runner(folder)
    assert not done["killed"]
    assert done["touches"] > 0  # it came to its end, and did not raise
    return done


def assert_same_run(folder, reference):
    assert adapter_bytes(folder) == adapter_bytes(reference)
    assert eval_records(folder) == eval_records(reference)
    assert [line["round"] for line in folder.read_metrics()] == [0, 1, 2, 3]
    samples = [(each.path / "samples.jsonl").read_text() for each in (folder, reference)]
    assert samples[0] == samples[1]
    left_over = [path.name for path in folder.path.rglob(".*")]
    assert left_over == [], left_over


def kill_and_resume(recipe, runner, *, seed, by_touch, by_time):
    reference, _ = RunFolder.create(recipe)
    whole = finish(reference, runner)
    draw = random.Random(seed)
    orders = [{"kill_at_touch": draw.randint(1, whole["touches"])} for _ in range(by_touch)]
    orders += [{"kill_after_s": draw.uniform(0, whole["took_s"])} for _ in range(by_time)]
    killed = 0
    for order in orders:
        folder, _ = RunFolder.create(recipe)
        killed += runner(folder, **order)["killed"]
        finish(folder, runner)
        assert_same_run(folder, reference)
    assert killed >= by_touch  # a moment of chance may come after the end
    return reference, whole


def test_three_kills_change_no_bit(stateful, runner):
    kill_and_resume(stateful, runner, seed=1, by_touch=2, by_time=1)


@pytest.mark.slow
def test_a_hundred_kills_change_no_bit(stateful, runner):
    kill_and_resume(stateful, runner, seed=2, by_touch=60, by_time=40)


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_in_the_same_bits(stateful, runner):
    reference, _ = RunFolder.create(stateful)
    whole = finish(reference, runner)
    folder, _ = RunFolder.create(stateful)
    draw = random.Random(3)
    for _ in range(12):
        runner(folder, kill_at_touch=draw.randint(1, whole["touches"] // 2))
    finish(folder, runner)
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


def test_a_run_whose_every_checkpoint_is_damaged_says_so(stateful, run):
    folder = run(stateful)
    for checkpoint in folder.checkpoints.iterdir():
        (checkpoint / "state.json").write_text("{}")
    folder, recipe = RunFolder.open(folder.path)
    with pytest.raises(ValueError, match="all 2 checkpoints are damaged; start the run anew"):
        run.resume(recipe, folder)

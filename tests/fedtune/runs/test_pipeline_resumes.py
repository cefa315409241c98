"""SIGKILL in any stage, resume, and every stage's bits are the uninterrupted run's.

Real processes are killed at their k-th touch of a stage's folder: see forked_runs.py.
"""

import random
from contextlib import contextmanager, nullcontext

import pytest
from staged_runs import DPO, GRPO, REWARD, SFT, left_by

from fedtune.records.events import RoundFinished, ignore
from fedtune.runs.pipeline import PipelineFolder, execute_stages

STATE = {
    "federation": {"inner_optimizer": "keep"},
    "outer": {"name": "nesterov", "lr": 0.7, "momentum": 0.9},
}


def finish(folder, forked):
    done = forked(folder)
    assert "raised" not in done, done["raised"]
    assert not done["killed"]


def assert_same(folder, reference):
    assert left_by(folder) == left_by(reference)
    left_over = [path.name for path in folder.path.rglob(".*")]
    assert left_over == [], left_over


def kill_in(stages, pipeline, forked, *, times, seed):
    """Kill a run in each of these folders, so many times, at touches of chance; resume it."""
    reference, _ = PipelineFolder.create(pipeline)
    counts = {}
    for within in stages:  # counting is a whole run, and the first of them is the reference
        folder = reference if not counts else PipelineFolder.create(pipeline)[0]
        counts[within] = forked(folder, within=within)["touches"]
        assert_same(folder, reference)
    draw = random.Random(seed)
    for within, touches in counts.items():
        for _ in range(times):
            folder, _ = PipelineFolder.create(pipeline)
            order = {"within": within, "kill_at_touch": draw.randint(1, touches)}
            assert forked(folder, **order)["killed"], order
            finish(folder, forked)
            assert_same(folder, reference)


@pytest.mark.slow
def test_a_kill_in_the_last_stage_changes_no_bit(tiny_stages, forked):
    pipeline = tiny_stages(SFT, {**REWARD, "start": "merge"}, GRPO, **STATE)
    kill_in(["grpo"], pipeline, forked, times=1, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_kills_in_each_stage_change_no_bit(tiny_stages, forked, seed):
    entries = (SFT, {**REWARD, "start": "merge"}, GRPO, {**DPO, "start": "merge", "from": "grpo"})
    folders = ["", "sft", "reward", "grpo", "dpo", "sft/.merged.tmp", "grpo/.merged.tmp"]
    kill_in(folders, tiny_stages(*entries, **STATE), forked, times=4, seed=seed)


@pytest.mark.parametrize("at", [("sft", 1), ("reward", 0)])
def test_an_interrupt_in_or_between_stages_changes_no_bit(tiny_stages, at):
    pipeline = tiny_stages(SFT, REWARD, **STATE)
    reference, bound = PipelineFolder.create(pipeline)
    execute_stages(bound, reference)

    @contextmanager
    def interrupting(stage):
        def watch(event):
            if isinstance(event, RoundFinished) and (stage.name, event.record.round) == at:
                raise KeyboardInterrupt

        if (stage.name, 0) == at:
            raise KeyboardInterrupt
        yield watch

    folder, bound = PipelineFolder.create(pipeline)
    with pytest.raises(KeyboardInterrupt):
        execute_stages(bound, folder, interrupting)
    assert folder.done() == ([] if at[0] == "sft" else ["sft"])
    seen = []
    _, bound = PipelineFolder.open(folder.path)
    execute_stages(bound, folder, lambda stage: seen.append(stage.name) or nullcontext(ignore))
    assert seen == (["sft", "reward"] if at[0] == "sft" else ["reward"])
    assert_same(folder, reference)

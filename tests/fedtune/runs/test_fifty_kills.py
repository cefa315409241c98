"""Fifty times SIGKILL at a random moment, over the three engines: resume, and the same bits."""

import random
import signal
import subprocess
import sys
import time

import pytest
from left_by_a_run import adapter_bytes
from network import SMALL, descendants, locally, new_deployment

from fedtune.recipe import load_recipe
from fedtune.records.folder import RunFolder
from fedtune.transport.flower.deployment_rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILLS = {"local": 24, "ray": 13, "superlink": 13}
LONGEST_S = {"local": 14.0, "ray": 30.0, "superlink": 22.0}  # of an undisturbed run, about


def begin(path, *keys):
    return RunFolder.create(load_recipe("three_nodes", [*SMALL, f"output_dir={path}", *keys]))[0]


def resume(folder):
    command = [sys.executable, "-m", "fedtune.cli", "run", "--resume", str(folder.path)]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


def kill_at_random(engine, folder, draw, also=lambda: []):
    """Start what is left of a run and kill it at a random moment; whether it was still running."""
    process = resume(folder)
    deadline = time.monotonic() + draw.uniform(0.5, LONGEST_S[engine])
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    running = process.poll() is None
    for each in also():
        each.kill()
    if running:
        for each in descendants(process.pid, ""):
            each.kill()
        process.send_signal(signal.SIGKILL)
    process.wait()
    return running


def finish(folder):
    assert resume(folder).wait(600) == 0
    return folder


def check(engine, tmp_path, new_run, also=lambda: []):
    draw, killed, runs = random.Random(7), 0, 0
    expected = adapter_bytes(locally(tmp_path / "expected"))
    while killed < KILLS[engine]:
        folder, before = new_run(runs), killed
        runs += 1
        for _ in range(3):  # the same run several times, then on to its end
            killed += kill_at_random(engine, folder, draw, also)
        assert adapter_bytes(finish(folder)) == expected, f"run {runs}, kills {before} to {killed}"
    print(f"{engine}: {killed} kills in {runs} runs")


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_killed_and_resumed_in_the_simulation_engines(tmp_path, engine):
    def new_run(number):
        return begin(tmp_path / f"run{number}", f"federation.engine={engine}")

    check(engine, tmp_path, new_run)


def test_killed_and_resumed_over_a_network(tmp_path):
    fed = new_deployment(tmp_path / "fed")
    with rehearse(fed, say=print) as processes:

        def new_run(number):
            return begin(tmp_path / f"run{number}", f"federation.deployment={fed.path}")

        def server_apps():
            return descendants(processes["superlink"].pid, "fedtune.transport.flower.guard")

        check("superlink", tmp_path, new_run, server_apps)

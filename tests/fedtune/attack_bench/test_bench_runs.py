"""Whole benches through the command line: real processes, real rounds, drawn updates.

Not proven here: level training (test_bench_training), nor the numbers (test_bench_numbers).
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from fedtune.attack_bench.cells import lay_out
from fedtune.attack_bench.schema import load_bench
from fedtune.cli import app
from fedtune.cli.bench import _fitting, _seconds
from fedtune.origin import code_hash, usable_cores
from fedtune.records.bench_summary import read_summary
from fedtune.report.pages.bench import bench_page

runner = CliRunner()

# 0.3 of 10 lie: krum needs 2f + 3 = 9 replies, and with three silent liars it gets 7.
DRAWN = {
    "title": "Drawn",
    "level": "vectors",
    "fractions": [0.3],
    "seeds": [0, 1],
    "set": {"lora.r": 2},
    "rounds": {"drawn": {"num_rounds": 2, "modules": 1, "d_out": 6, "d_in": 5}},
    "defences": {
        "mean": {"aggregator": {"name": "mean"}},
        "krum": {"aggregator": {"name": "krum"}},
        "bulyan": {"aggregator": {"name": "bulyan"}},
    },
    "attacks": {"flip": {"name": "sign_flip", "scale": 10}, "silence": {"name": "silence"}},
}
TIMES = ("seconds",)


def bench(folder, *args, expect=0):
    path = folder / "drawn.yaml"
    if not path.exists():
        path.write_text(yaml.safe_dump(DRAWN, sort_keys=False))
    env = {"COLUMNS": "200"}
    result = runner.invoke(app, ["bench", str(path), *map(str, args)], env=env)
    assert "Traceback" not in result.output
    assert result.exit_code == expect, result.output
    return result


def results(out):
    return [json.loads(text) for text in (out / "results.jsonl").read_text().splitlines()]


def without_times(lines):
    return [{k: v for k, v in line.items() if k not in (*TIMES, "command")} for line in lines]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished bench of two processes: its folder, and what it printed."""
    folder = tmp_path_factory.mktemp("bench")
    return folder, bench(folder, "--jobs", 2, "--out", folder / "out")


def test_a_bench_end_to_end(done):
    folder, result = done
    lines = results(folder / "out")
    # 2 seeds x (oracle, mean of all, (none + 2 attacks) x 3 defences)
    assert len(lines) == 2 * (2 + 9)
    by_cell = {(line["attack"], line["defence"], line["seed"]): line for line in lines}
    assert by_cell["oracle", "mean of all", 0]["loss"] < 1e-10
    assert by_cell["none", "mean", 1]["loss"] < 1e-10
    assert by_cell["flip", "mean", 0]["loss"] > 1
    assert by_cell["flip", "krum", 0]["loss"] < 1
    assert by_cell["flip", "mean", 0]["goal"] == "harm"
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["cells"] == {"done": 22, "of": 22}
    assert (summary["tables"][0]["f"], summary["tables"][0]["num_clients"]) == (3, 10)
    markdown = (folder / "out" / "summary.md").read_text()
    for shown in (result.output, markdown):
        assert "the rules assume f=3" in shown
        assert "bulyan needs n >= 4f + 3: got n=10, f=3" in shown
    assert "fedtune bench" in markdown


def test_a_cell_whose_run_stops_is_a_result(done):
    folder, _ = done
    stopped = [line for line in results(folder / "out") if line["status"] == "stopped"]
    assert {(line["attack"], line["defence"]) for line in stopped} == {("silence", "krum")}
    assert "krum needs n >= 2f + 3" in stopped[0]["message"]


def test_a_rule_that_refuses_is_no_error(done):
    folder, _ = done
    refused = [line for line in results(folder / "out") if line["status"] == "refused"]
    assert {line["defence"] for line in refused} == {"bulyan"}
    assert len(refused) == 6


def test_the_order_and_the_number_of_processes_change_nothing(done, tmp_path):
    folder, _ = done
    bench(folder, "--jobs", 1, "--out", tmp_path / "alone")
    assert without_times(results(tmp_path / "alone")) == without_times(results(folder / "out"))


def test_a_column_more_costs_that_column_alone(done):
    folder, _ = done
    out = folder / "out"
    before = results(out)
    stamps = {path: path.stat().st_mtime_ns for path in out.glob("cells/*/result.json")}
    again = bench(folder, "--jobs", 1, "--out", out)
    assert "0 cells to run" in again.output
    more = bench(folder, "defences.median={aggregator: {name: median}}", "--out", out, "--jobs", 1)
    assert "6 cells to run" in more.output  # none and two attacks, two seeds
    after = results(out)
    old = [line for line in after if line["defence"] != "median"]
    for line, same in zip(old, before, strict=True):
        changed = {key for key in line if line[key] != same[key]}
        assert changed <= {"command"}  # it names the overrides
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_a_result_that_is_damaged_or_a_lie_that_failed_under_other_code_is_made_again(done):
    folder, _ = done
    out = folder / "out"
    mine = [line for line in results(out) if line["attack"] == "flip"]
    flips = [line["cell"] for line in mine if line["defence"] in DRAWN["defences"]]
    one, two = sorted({key for key in flips if key})[:2]  # what the rule refuses has no key
    old = {"status": "skipped", "message": "it failed", "seconds": 1.0, "code": "before"}
    (out / "cells" / one / "result.json").write_text('{"status": "do')
    (out / "cells" / two / "result.json").write_text(json.dumps(old))
    (out / "summary.json").unlink()
    assert "2 cells to run" in bench(folder, "--jobs", 1, "--out", out).output
    assert {line["status"] for line in results(out)} == {"done", "stopped", "refused"}


def test_a_part_is_not_written_over_the_whole_and_the_whole_is_over_a_part(done, tmp_path):
    """results.jsonl, table and page show one matrix: the last, if it holds the one before."""
    out = tmp_path / "out"
    shutil.copytree(done[0] / "out" / "cells", out / "cells")  # so that no cell is run again
    bench(tmp_path, "seeds=[0]", "--jobs", 1, "--out", out)
    bench(tmp_path, "--jobs", 1, "--out", out)
    before = results(out)
    assert len(before) == 2 * (2 + 9)
    for override, lacks in (
        ("seeds=[0]", "seed 1"),
        ("seeds=[1, 2]", "seed 0"),
        ("defences={mean: {aggregator: {name: mean}}}", "defence krum, defence bulyan"),
        ("defences.krum={aggregator: {name: median}}", "another defence krum"),
        ("attacks={other: {name: sign_flip}}", "attack flip"),
        ("attacks.flip.scale=2", "another attack flip"),
        ("fractions=[0.2]", "fraction 0.3"),
        ("set={lora.r: 3}", "another set"),
        ("rounds.drawn.num_rounds=1", "another rounds"),
        ("f=2", "f = 3"),
        ("fewer_seeds={krum: 1}", "seeds of krum"),
    ):
        result = bench(tmp_path, override, "--jobs", 1, "--out", out, expect=2)
        told = " ".join(result.output.split())
        assert f"of which this one lacks: {lacks}" in told, override
        assert "with --out OUT" in told
        assert results(out) == before
    (out / "summary.json").unlink()
    bench(tmp_path, "seeds=[0]", "--jobs", 1, "--out", out)
    assert len(results(out)) == 11


def test_the_command_of_a_cell_of_vectors_runs_beside_the_bench(done):
    """Run as it stands it gives the same line, and leaves the bench as it is."""
    folder, _ = done
    before = results(folder / "out")
    (line,) = [
        each for each in before
        if (each["attack"], each["defence"], each["seed"]) == ("flip", "krum", 1)
    ]  # fmt: skip
    program, command, *words = shlex.split(line["command"])
    assert (program, command) == ("fedtune", "bench")
    place = words.index("--out")
    own = Path(words[place + 1])
    assert own.parent == folder
    assert own.name.startswith("out-cell-")
    bench(folder, *words[1:], "--jobs", 1)
    (again,) = [each for each in results(own) if each["attack"] == "flip"]
    assert without_times([again]) == without_times([line])
    assert results(folder / "out") == before


def test_results_are_of_the_code_that_ran_the_cells(done):
    folder, _ = done
    told = {line["status"]: line["code"] for line in results(folder / "out")}
    assert told == {"done": code_hash(), "stopped": code_hash(), "refused": None}


def test_a_real_summary_is_read_by_the_page(done):
    folder, _ = done
    summary = json.loads((folder / "out" / "summary.json").read_text())
    (table,) = read_summary(summary).tables
    assert table.grid["krum", "silence"].status == "stopped"
    assert table.grid["krum", "silence"].rank == 0.0
    assert table.grid["bulyan", "flip"].status == "refused"
    assert table.grid["mean", "flip"].rank < 0 < table.grid["krum", "flip"].rank
    assert (folder / "out" / "bench.html").read_text() == bench_page(summary)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("defences.mean.aggregator.name=medan", "did you mean 'median'"),
        ("attacks.flip.scal=2", "did you mean 'scale'"),
        ("fractions=[0.25]", "whole count"),
        ("titel=x", "did you mean 'title'"),
    ],
)
def test_typos_are_told_in_one_screen_and_nothing_runs(tmp_path, override, told):
    result = bench(tmp_path, override, "--out", tmp_path / "out", expect=2)
    assert told in result.output
    assert len(result.output.splitlines()) < 8
    assert not (tmp_path / "out").exists()


def test_processes_are_as_many_as_fit_on_the_cores():
    """A client of all cores' threads leaves room for one; given rows take one thread each."""
    cores = usable_cores()
    threads = f"set.federation.threads_per_client={cores}"
    for name, override, expected in (
        ("bench_smoke", [], cores),
        ("bench_smoke", [threads], 1),
        ("bench_vectors", [threads], cores),
    ):
        loaded = load_bench(name, override)
        cells = [cell for cell in lay_out(loaded) if cell.recipe][:3]
        assert _fitting(loaded, cells) == expected


@pytest.mark.slow
def test_a_slice_begins_no_cell_after_its_time_and_the_next_goes_on(tmp_path):
    """Of 8 cells one at least runs in a second, the time that a process takes to start."""
    out = tmp_path / "out"
    words = ("seeds=[0]", "--jobs", 1, "--out", out)
    shown = bench(tmp_path, *words, "--for", "1s").output
    found = len(list(out.glob("cells/*/result.json")))
    assert 1 <= found < 8
    told = " ".join(shown.split())
    assert f"the time is up: {8 - found} cells have not run. Go on with: fedtune bench" in told
    assert told.endswith(f"--out {out} --for 1s")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["cells"] == {"done": found + 3, "of": 11}  # and the three that bulyan refuses
    assert "--for" not in summary["command"]
    shown = bench(tmp_path, *words, "--for", "1h").output
    assert f"{8 - found} cells to run" in shown
    assert "the time is up" not in shown
    assert len(results(out)) == 11


@pytest.mark.parametrize("time_", ["", "5", "m", "0m", "1d", "-1m", "1m1h", "60 m"])
def test_a_time_that_is_none_is_refused(tmp_path, time_):
    told = bench(tmp_path, "--out", tmp_path / "out", f"--for={time_}", expect=2).output
    assert "--for needs a time such as 60m, 1h30m or 90s" in " ".join(told.split())
    assert not (tmp_path / "out").exists()


def test_times_as_they_are_typed():
    assert [_seconds(text) for text in ("90s", "60m", "1h30m", "2h5s")] == [90, 3600, 5400, 7205]


def test_a_bench_that_is_not_there():
    result = runner.invoke(app, ["bench", "bench_smok"])
    assert result.exit_code == 2
    assert "did you mean 'bench_smoke'" in result.output


def start(folder, out, *overrides):
    path = folder / "drawn.yaml"
    path.write_text(yaml.safe_dump(DRAWN, sort_keys=False))
    command = [sys.executable, "-m", "fedtune.cli", "bench", str(path), *overrides]
    return subprocess.Popen(
        [*command, "--jobs", "1", "--out", str(out)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=dict(os.environ),
        start_new_session=True,
    )  # fmt: skip


def wait_for(process, out, count):
    deadline = time.monotonic() + 400  # on a machine that is busy with other things
    while len(list(out.glob("cells/*/result.json"))) < count:
        if time.monotonic() > deadline:
            os.killpg(process.pid, signal.SIGKILL)  # left running it would fail its neighbours
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)


@pytest.mark.slow
def test_ctrl_c_loses_nothing_and_a_kill_neither(tmp_path, done):
    """Ctrl-C reaches the whole group of processes, as in a terminal; the kill only the first."""
    out, many = tmp_path / "out", "rounds.drawn.num_rounds=12"
    process = start(tmp_path, out, many)
    wait_for(process, out, 2)
    os.killpg(process.pid, signal.SIGINT)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 130, shown
    assert "Traceback" not in shown
    assert "Go on with: fedtune bench" in " ".join(shown.split())
    kept = len(list(out.glob("cells/*/result.json")))
    assert kept >= 2
    assert len(results(out)) == kept + 6  # and the six that bulyan refuses

    process = start(tmp_path, out, many)
    wait_for(process, out, kept + 1)
    process.kill()
    process.communicate()
    time.sleep(1)  # its own processes end with it
    left = 16 - len(list(out.glob("cells/*/result.json")))
    result = bench(tmp_path, many, "--jobs", 2, "--out", out)
    assert f"{left} cells to run" in result.output
    lines = results(out)
    assert len(lines) == 22
    assert {line["status"] for line in lines} == {"done", "stopped", "refused"}

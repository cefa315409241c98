"""Hold the golden recipes of two states of the code against each other, bit by bit.

`make golden BASE=<commit>` runs each recipe at BASE in a git worktree and in this tree, on one
thread, and compares the adapters, each round's weights and who was refused. Runs at BASE are kept
under runs/golden, by commit and by what the bits depend on, and not run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from recipes import GOLDEN, Golden

TREE = Path(__file__).parents[2]
KEPT = TREE / "runs" / "golden"
STACK = ("torch", "transformers", "peft", "trl", "datasets", "numpy")
GIVEN_UP_S = 900


def main() -> int:
    """Return 0 if all are equal, else 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the commit to compare with")
    parser.add_argument("names", nargs="*", help="of golden recipes; default: all")
    told = parser.parse_args()
    if unknown := set(told.names) - {golden.name for golden in GOLDEN}:
        parser.error(f"no golden recipe: {', '.join(sorted(unknown))}")
    wanted = [golden for golden in GOLDEN if not told.names or golden.name in told.names]
    commit = _git("rev-parse", "--verify", f"{told.base}^{{commit}}")
    base = KEPT / f"{commit[:12]}-{_stack()}"
    head = KEPT / "head"
    shutil.rmtree(head, ignore_errors=True)
    unlike = 0
    with _worktree(commit) as tree:
        for golden in wanted:
            started = time.monotonic()
            if not (base / golden.name / "done").exists():
                _run(golden, tree, base / golden.name)
            _run(golden, TREE, head / golden.name)
            said = list(differences(base / golden.name / "run", head / golden.name / "run"))
            unlike += bool(said)
            verdict = "; ".join(said[:3]) if said else "equal"
            print(f"{golden.name:25} {verdict}  ({time.monotonic() - started:.0f} s)", flush=True)
    print(
        f"{len(wanted) - unlike} of {len(wanted)} golden recipes end in the bits of {commit[:12]}"
    )
    return 1 if unlike else 0


def differences(base: Path, head: Path) -> Iterator[str]:
    """Say where two run folders differ: tensors of the adapter, weights, refusals."""
    before = load_file(base / "adapter" / "adapter_model.safetensors")
    after = load_file(head / "adapter" / "adapter_model.safetensors")
    if before.keys() != after.keys():
        yield "the adapters have other tensors"
    for name in before.keys() & after.keys():
        if not torch.equal(before[name], after[name]):
            yield f"{name} differs by {float((before[name] - after[name]).abs().max()):.3g}"
    rounds, again = _rounds(base), _rounds(head)
    if len(rounds) != len(again):
        yield f"{len(rounds)} rounds, then {len(again)}"
    for one, other in zip(rounds, again, strict=False):
        for key, value in one.items():
            if value != other[key]:
                yield f"round {one['round']}: {key} {value} became {other[key]}"


def _rounds(run: Path) -> list[dict[str, Any]]:
    """Of each round, what has to stay: weights of clients, who was refused, the loss."""
    found = []
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        weights = {c: told.get("weight") for c, told in record.get("clients", {}).items()}
        found.append(
            {
                "round": record["round"],
                "weights": weights,
                "refused": sorted(record.get("refused", {})),
                "loss": (record.get("eval") or {}).get("loss"),
            }
        )
    return found


def _run(golden: Golden, tree: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    run = folder / "run"
    command = ["run", golden.recipe, *golden.settings, f"output_dir={run}"]
    if golden.killed:
        _kill_after_a_round(_start(command, tree, folder), run)
        command = ["run", "--resume", str(run)]
    if _start(command, tree, folder).wait(timeout=GIVEN_UP_S):
        raise SystemExit(f"{golden.name} failed in {tree}:\n{(folder / 'log').read_text()[-2000:]}")
    (folder / "done").touch()


def _start(command: Sequence[str], tree: Path, folder: Path) -> subprocess.Popen[bytes]:
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "fedtune.cli", *command],
            cwd=tree, env=os.environ | offline | {"PYTHONPATH": str(tree)},
            stdout=log, stderr=log,
        )  # fmt: skip


def _kill_after_a_round(process: subprocess.Popen[bytes], run: Path) -> None:
    metrics, deadline = run / "metrics.jsonl", time.monotonic() + GIVEN_UP_S
    while process.poll() is None and time.monotonic() < deadline:
        if metrics.exists() and any(record["round"] for record in _rounds(run)):
            process.send_signal(signal.SIGKILL)
        time.sleep(0.05)
    if process.wait(timeout=60) != -signal.SIGKILL:
        raise SystemExit(f"{run} came to its end before it could be killed")


def _stack() -> str:
    """Eight hex digits of what the bits depend on beside the code."""
    told = [f"{name} {version(name)}" for name in STACK]
    told += [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    told += [repr(GOLDEN)]
    return hashlib.sha256("\n".join(told).encode()).hexdigest()[:8]


def _git(*arguments: str) -> str:
    found = subprocess.run(["git", *arguments], cwd=TREE, capture_output=True, text=True)
    if found.returncode:
        raise SystemExit(found.stderr.strip())
    return found.stdout.strip()


@contextmanager
def _worktree(commit: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="golden-") as parent:
        tree = Path(parent) / "base"
        _git("worktree", "add", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


if __name__ == "__main__":
    sys.exit(main())

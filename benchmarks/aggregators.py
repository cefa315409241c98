"""What a rule costs: against ByzFL, Flower's strategies, and the limits of torch itself.

    pip install --no-deps --target runs/byzfl byzfl==0.0.11   # a peer, for this benchmark alone
    python benchmarks/aggregators.py --byzfl runs/byzfl       # about half an hour; 11 GB of memory
    python benchmarks/aggregators.py --small                  # the 1e6 cases only

Every contender is called in turn on the same float32 rows in one process, all cores free to it;
medians, wall and CPU seconds. ByzFL's package needs a torchvision, so its aggregators are loaded
alone. Flower's strategies get whole messages, as they would on a server.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _path  # noqa: F401  before anything of ours
import torch

import aggregators

Call = Callable[[], object]
CASES = {  # name -> n, f, d
    "n=20 f=4 d=1e6": (20, 4, 10**6),
    "n=20 f=4 d=1e7": (20, 4, 10**7),
    "n=100 f=20 d=1e6": (100, 20, 10**6),
}
OURS: dict[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "median": {"name": "median"},
    "trimmed_mean": {"name": "trimmed_mean"},
    "meamed": {"name": "meamed"},
    "krum": {"name": "krum"},
    "multi_krum": {"name": "multi_krum"},
    "mda": {"name": "mda"},
    "geometric_median, 32 steps": {"name": "geometric_median", "max_steps": 32, "tolerance": 0.0},
    "centered_clipping, 5 steps": {"name": "centered_clipping", "steps": 5},
    "caf": {"name": "caf"},
    "nnm + mean": {"name": "mean", "mixing": ("nnm",)},
    "nnm + krum": {"name": "krum", "mixing": ("nnm",)},
    "nnm + trimmed_mean": {"name": "trimmed_mean", "mixing": ("nnm",)},
    "clipping + mean": {"name": "mean", "mixing": ("clipping",)},
    "arc + mean": {"name": "mean", "mixing": ("arc",)},
}
GOALS = {"median": 20, "trimmed_mean": 20, "meamed": 20, "krum": 6, "multi_krum": 6, "mda": 6,
         "centered_clipping, 5 steps": 15, "geometric_median, 32 steps": 60, "caf": 20,
         "nnm + trimmed_mean": 30}  # fmt: skip


@dataclass
class Timing:
    """Seconds of each repetition."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def medians(self) -> tuple[float, float]:
        """Wall and CPU seconds."""
        return statistics.median(self.wall), statistics.median(self.cpu)


def load_byzfl(folder: Path) -> tuple[Any, Any]:
    """ByzFL's aggregators and pre-aggregators, without the rest of its package."""
    sys.path.insert(0, str(folder))
    for name in ("byzfl", "byzfl.aggregators", "byzfl.utils"):
        shell = types.ModuleType(name)
        shell.__path__ = [str(folder / name.replace(".", "/"))]  # type: ignore[attr-defined]
        sys.modules[name] = shell
    load = importlib.import_module
    return load("byzfl.aggregators.aggregators"), load("byzfl.aggregators.preaggregators")


def byzfl_calls(folder: Path, rows: torch.Tensor, f: int) -> dict[str, Call]:
    """The same rules in ByzFL, with options that make them do the same work."""
    rules, before = load_byzfl(folder)
    scale = float(rows[0].norm())

    def mixed(rule: Any) -> Call:
        return lambda: rule(before.NNM(f=f)(rows))

    calls: dict[str, Call] = {
        "mean": lambda: rules.Average()(rows),
        "median": lambda: rules.Median()(rows),
        "trimmed_mean": lambda: rules.TrMean(f=f)(rows),
        "meamed": lambda: rules.Meamed(f=f)(rows),
        "krum": lambda: rules.Krum(f=f)(rows),
        "multi_krum": lambda: rules.MultiKrum(f=f)(rows),
        "geometric_median, 32 steps": lambda: rules.GeometricMedian(nu=1e-6, T=32)(rows),
        "centered_clipping, 5 steps": lambda: rules.CenteredClipping(L=5, tau=scale)(rows),
        "caf": lambda: rules.CAF(f=f)(rows),
        "nnm + mean": mixed(rules.Average()),
        "nnm + krum": mixed(rules.Krum(f=f)),
        "nnm + trimmed_mean": mixed(rules.TrMean(f=f)),
        # It overwrites the caller's rows; the clone that this forces is not timed apart.
        "clipping + mean": lambda: rules.Average()(before.Clipping(c=scale)(rows)),
        "arc + mean": lambda: rules.Average()(before.ARC(f=f)(rows)),
    }
    if len(rows) <= 20:  # it enumerates all subsets
        calls["mda"] = lambda: rules.MDA(f=f)(rows)
    else:  # NNM on 100 rows wants 32 GB
        calls = {name: call for name, call in calls.items() if not name.startswith("nnm")}
    return calls


def flower_calls(rows: torch.Tensor, f: int) -> dict[str, Call]:
    """Flower's strategies, each handed fresh replies as its server would."""
    import fedtune.transport.flower  # noqa: F401  sets Flower's switches before it is imported

    strategies = importlib.import_module("flwr.serverapp.strategy")
    made: dict[str, Any] = {
        "mean": strategies.FedAvg(),
        "median": strategies.FedMedian(),
        "trimmed_mean": strategies.FedTrimmedAvg(beta=f / len(rows)),
        "krum": strategies.Krum(num_malicious_nodes=f),
        "multi_krum": strategies.MultiKrum(
            num_malicious_nodes=f, num_nodes_to_select=len(rows) - f
        ),
    }

    def call(strategy: Any) -> Call:
        def aggregate() -> object:
            strategy._check_and_log_replies = lambda replies, **_: (list(replies), [])
            return strategy.aggregate_train(1, flower_replies(rows))

        return aggregate

    return {name: call(strategy) for name, strategy in made.items()}


def flower_replies(rows: torch.Tensor) -> list[Any]:
    """One reply per row; some strategies empty what they are given."""
    app = importlib.import_module("flwr.app")
    replies = []
    for row in rows:
        content = app.RecordDict(
            {"arrays": app.ArrayRecord({"w": app.Array(row.numpy())}),
             "metrics": app.MetricRecord({"num-examples": 1})}
        )  # fmt: skip
        replies.append(types.SimpleNamespace(content=content))
    return replies


def limits(rows: torch.Tensor) -> dict[str, Call]:
    """What torch itself needs for the least that such rules do."""
    calls: dict[str, Call] = {
        "torch.sum": lambda: rows.sum(),
        "torch.mean(0)": lambda: rows.mean(dim=0),
        "X @ X.T": lambda: rows @ rows.T,
        "torch.sort(0)": lambda: rows.sort(dim=0),
    }
    return calls


def measure(calls: dict[str, Call], *, repeats: int, budget_s: float) -> dict[str, Timing]:
    """Call everything in turn, again and again; the slow ones less often."""
    timings = {name: Timing() for name in calls}
    for name, call in calls.items():
        if not name.startswith("byzfl/"):  # half a minute each, and nothing in it to warm up
            call()
    for _ in range(repeats):
        for name, call in calls.items():
            timing = timings[name]
            if timing.wall and sum(timing.wall) + timing.wall[-1] > budget_s:
                continue
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            timing.wall.append(time.perf_counter() - wall)
            timing.cpu.append(time.process_time() - cpu)
    return timings


def run_case(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One case: all contenders interleaved."""
    n, f, d = CASES[name]
    rows = torch.randn(n, d, generator=torch.Generator().manual_seed(0))

    def ours(how: dict[str, Any]) -> Call:
        return lambda: aggregators.aggregate(rows, f=f, **how)

    calls = {f"limit/{key}": call for key, call in limits(rows).items()}
    calls |= {f"ours/{key}": ours(how) for key, how in OURS.items()}
    if args.flower and d <= 10**6:
        calls |= {f"flower/{key}": call for key, call in flower_calls(rows, f).items()}
    if args.byzfl:
        # Its clipping writes into the rows it is given: last, so that nobody else sees it.
        calls |= {f"byzfl/{key}": call for key, call in byzfl_calls(args.byzfl, rows, f).items()}
    timings = measure(calls, repeats=args.repeats, budget_s=args.budget)
    return {"case": name, "timings": {key: timing.medians for key, timing in timings.items()}}


def table(result: dict[str, Any]) -> str:
    """One case as Markdown: seconds, and how many times faster than each peer."""
    timings = result["timings"]
    gram, lines = timings["limit/X @ X.T"][0], [f"### {result['case']}", ""]
    at_best = {key.removeprefix("limit/"): wall for key, (wall, _) in timings.items()}
    stated = [f"{key} {at_best[key] * 1e3:.1f} ms" for key in at_best if "/" not in key]
    lines += [f"Limits, wall: {', '.join(stated)}.", ""]
    lines += ["| rule | ms wall (CPU) | of X @ X.T | x ByzFL wall (CPU) | x Flower wall (CPU) |"]
    lines += ["|---|---|---|---|---|"]
    for rule in OURS:
        wall, cpu = timings[f"ours/{rule}"]
        peers = " | ".join(_times(timings, peer, rule) for peer in ("byzfl", "flower"))
        seconds = f"{wall * 1e3:.1f} ({cpu * 1e3:.0f})"
        lines.append(f"| {rule} | {seconds} | {wall / gram:.2f} | {peers} |")
    return "\n".join(lines)


def _times(timings: dict[str, tuple[float, float]], peer: str, rule: str) -> str:
    theirs = timings.get(f"{peer}/{rule}")
    if theirs is None:
        return "-"
    wall, cpu = (a / b for a, b in zip(theirs, timings[f"ours/{rule}"], strict=True))
    return f"{wall:.1f} ({cpu:.1f})"


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Bars: how many times faster than ByzFL, wall time, with the goals."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(5.2 * len(results), 5), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        timings = result["timings"]
        rules = [rule for rule in OURS if f"byzfl/{rule}" in timings]
        times = [timings[f"byzfl/{rule}"][0] / timings[f"ours/{rule}"][0] for rule in rules]
        colors = ["#2a78b5" if each >= 1 else "#c44e52" for each in times]
        axis.barh(rules, times, color=colors)
        for place, (rule, value) in enumerate(zip(rules, times, strict=True)):
            clear = max(value, GOALS.get(rule, 0)) * 1.08  # of the bar and of the goal's mark
            axis.text(clear, place, f"{value:.1f}", va="center", fontsize=8)
            if rule in GOALS:
                axis.plot([GOALS[rule]] * 2, [place - 0.4, place + 0.4], color="black", lw=1.5)
        axis.set_xscale("log")
        axis.set_xlim(0.1, max([*times, 60]) * 3)
        axis.axvline(1, color="grey", lw=0.8)
        axis.invert_yaxis()
        axis.set_title(result["case"])
        axis.set_xlabel("times as fast as ByzFL, wall time")
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Black marks: the goal at d=1e7. Red: ByzFL is faster.", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Measure the cases asked for, print Markdown, write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--byzfl", type=Path, help="folder that holds the byzfl package")
    parser.add_argument("--flower", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--small", action="store_true", help="leave out d=1e7")
    parser.add_argument("--case", default="", help="only the cases with these words in them")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for each contender")
    parser.add_argument("--out", type=Path, default=Path("runs/bench_aggregators"))
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
          f"{torch.get_num_threads()} threads for peers and limits\n")  # fmt: skip
    results = []
    for name, (_, _, d) in CASES.items():
        if (args.small and d > 10**6) or args.case not in name:
            continue
        results.append(run_case(name, args))
        print(table(results[-1]) + "\n", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "aggregators.json").write_text(json.dumps(results, indent=1))
    draw(results, args.out / "aggregators.png")


if __name__ == "__main__":
    main()

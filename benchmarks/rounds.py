"""What a client-round costs: against a plain training loop, per engine, and in memory.

    python benchmarks/rounds.py            # everything, a few minutes
    python benchmarks/rounds.py overhead   # or one of: overhead, engines, memory

Every ratio is of medians taken in turn, in one process, on one thread.
"""

from __future__ import annotations

import cProfile
import platform
import pstats
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _path  # noqa: F401  before anything of ours
import psutil
import torch

from fedtune.recipe import Recipe, load_recipe
from fedtune.records.events import Event, Replied, RoundFinished, RoundStarted, ignore
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.training.plan import draw_rows
from fedtune.training.tasks import sft
from fedtune.training.tasks.running import rows_per_round, run_steps
from fedtune.training.worker import Worker

STEPS, ROUNDS = 10, 12
HOT = {
    "running.py:run_steps": "client-round",
    "trainer.py:train": "  Trainer.train",
    "trainer.py:training_step": "    steps",
    "sft_trainer.py:__init__": "  SFTTrainer()",
    "sft_config.py:__post_init__": "  SFTConfig()",
    "lora.py:write": "  write the anchor",
    "lora.py:read": "  read the delta",
    "chunked_logprob.py:_forward_tile": "    TRL's LM head, forward",
    "chunked_logprob.py:_backward_tile": "    TRL's LM head, backward",
}


def small(**overrides: Any) -> Recipe:
    """The quickstart with few clients, measured once."""
    keys = {"evaluation.every": 10_000, "evaluation.samples": 0, "evaluation.max_rows": 8,
            "evaluation.per_client": False, "attack": "null"} | overrides  # fmt: skip
    return load_recipe("quickstart", [f"{key}={value}" for key, value in keys.items()])


def in_folder(recipe: Recipe, observer: Callable[[Event], None] = ignore) -> None:
    """Run a recipe in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        made = RunFolder.create(recipe.model_copy(update={"output_dir": Path(folder) / "run"}))
        execute(made[1], made[0], observer)


def plain_loop(worker: Worker, rows: list[int]) -> Callable[[], None]:
    """The same steps without Trainer, TRL or Flower: what the hardware and PEFT allow."""
    prepared = worker.data.train_rows(0, None)
    batch_size = int(worker.plan.train["per_device_train_batch_size"])
    parameters = [p for p in worker.model.parameters() if p.requires_grad]

    def run() -> None:
        worker.model.train()
        rate = float(worker.plan.train["learning_rate"])
        optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0, fused=True)
        for step in range(STEPS):
            batch = prepared[rows[step * batch_size : (step + 1) * batch_size]]
            width = max(map(len, batch["input_ids"]))
            ids = torch.tensor([r + [0] * (width - len(r)) for r in batch["input_ids"]])
            labels = torch.tensor([r + [-100] * (width - len(r)) for r in batch["labels"]])
            mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r in batch["labels"]])
            worker.model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return run


def plain_trl(worker: Worker, rows: list[int]) -> Callable[[], None]:
    """The same steps in TRL's trainer alone, built anew each time as a script would."""
    prepared = worker.data.train_rows(0, None).select(rows)

    def run() -> None:
        run_steps(sft.TASK, prepared, worker.learner, first_step=0, seed=0)

    return run


def overhead() -> None:
    """A client-round over the same steps in TRL's trainer, and in a plain loop."""
    recipe = small(**{"federation.num_clients": 1, "data.partition": "{by: iid}",
                      "aggregator": "{name: mean}", "federation.num_rounds": 1000})  # fmt: skip
    worker = Worker(recipe)
    needed, there = rows_per_round(worker.plan), len(worker.data.train_rows(0, None))
    rows = draw_rows(needed, there, seed=0, order=0, round_=1)
    contestants = {
        "client-round": lambda: worker.trainer.train(worker.initial, client=0, round_=1),
        "TRL's trainer": plain_trl(worker, rows),
        "plain loop": plain_loop(worker, rows),
    }
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):  # in turn, so that a busy machine is busy for all
        for name, run in contestants.items():
            clock, process = time.perf_counter(), time.process_time()
            run()
            wall[name].append(time.perf_counter() - clock)
            cpu[name].append(time.process_time() - process)
    floor = statistics.median(cpu["plain loop"][2:])
    print(f"one client-round of {STEPS} steps, batch {needed // STEPS}:")
    for name in contestants:
        a, b = statistics.median(wall[name][2:]), statistics.median(cpu[name][2:])
        print(
            f"  {name:<14} {a:.3f} s wall, {b:.3f} s CPU, {b / floor:.2f} of the plain loop's CPU"
        )
    _show_where(worker)


def _show_where(worker: Worker) -> None:
    profile = cProfile.Profile()
    profile.runcall(worker.trainer.train, worker.initial, client=0, round_=1)
    stats: Any = pstats.Stats(profile)
    print("where a client-round's time goes (profiled, so longer):")
    for (file, _, name), (_, _, _, cumulative, _) in stats.stats.items():
        label = HOT.get(f"{Path(file).name}:{name}")
        if label:
            print(f"  {label:<34} {cumulative:.3f} s")


def engines() -> None:
    """Client-rounds per second of a whole run, start-up apart."""
    for engine in ("local", "ray"):
        times: list[float] = []

        def note(event: Event, times: list[float] = times) -> None:
            if isinstance(event, RoundStarted | RoundFinished):
                times.append(time.monotonic())

        started = time.monotonic()
        in_folder(small(**{"federation.engine": engine, "federation.num_rounds": 4}), note)
        rounds = [b - a for a, b in zip(times[2::2], times[3::2], strict=True)]
        rate = 10 / statistics.median(rounds)
        print(f"{engine}: {rate:.2f} client-rounds/s; first round after {times[0] - started:.1f} s")


def memory() -> None:
    """Resident memory after 5 and after 50 rounds."""
    resident: dict[int, float] = {}

    def note(event: Event) -> None:
        if isinstance(event, Replied) and event.client == 0:
            resident[event.round] = psutil.Process().memory_info().rss / 2**20

    in_folder(small(**{"federation.num_rounds": 51, "federation.local_steps": 2,
                       "federation.num_clients": 2, "data.partition": "{by: iid}",
                       "aggregator": "{name: mean}"}), note)  # fmt: skip
    print(f"resident after 5 rounds {resident[6]:.0f} MiB, after 50 {resident[51]:.0f} MiB")


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    chosen = sys.argv[1:] or ["overhead", "engines", "memory"]
    for name in chosen:
        {"overhead": overhead, "engines": engines, "memory": memory}[name]()

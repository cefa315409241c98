"""Many clients with large updates, on disk: wall, CPU and peak memory of an aggregation.

    python benchmarks/scale.py --folder /big/disk                    # 100 x 42M: 16.8 GB, deleted
    python benchmarks/scale.py --folder /big/disk --clients 1000 --columns 1000000
    python benchmarks/scale.py --folder /tmp --clients 20 --columns 4000000

Each measurement is a process of its own, with the files dropped from the page cache before it
where the system allows it (the disk below may still keep them). ``files twice`` reads every byte
twice, one file after the other, and computes nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from safetensors.torch import save_file

from aggregators import FileRows, aggregate
from aggregators.engine.pool import limit_threads

MiB = 1 << 20
console = Console()


def write(folder: Path, clients: int, columns: int) -> None:
    """Make the clients: a shared part, a part of their own, and every tenth one a liar."""
    generator = torch.Generator().manual_seed(0)
    shared, own = (torch.randn(min(columns, MiB), generator=generator) for _ in range(2))
    pieces = -(-columns // len(shared))
    for client in track(range(clients), f"writing {clients} x {columns:,} float32"):
        piece = shared + own.roll(7919 * client)
        update = piece.repeat(pieces)[:columns]
        if client % 10 == 3:
            update *= -10
        path = folder / f"client-{client:04d}.safetensors"
        save_file({"update": update}, path)
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())


def forget(paths: list[Path]) -> bool:
    """Ask the system to drop the files from its cache; whether it can be asked at all."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in paths:
        with open(path, "rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def read_twice(paths: list[Path]) -> None:
    """Read every byte twice, and do nothing with it."""
    buffer = bytearray(8 * MiB)
    for _ in range(2):
        forget(paths)
        for path in paths:
            with open(path, "rb", buffering=0) as handle:
                while handle.readinto(buffer):
                    pass


def nnm_trimmed_mean(paths: list[Path]) -> None:
    """Aggregate by coordinates, after mixing."""
    aggregate(FileRows(paths), "trimmed_mean", f=len(paths) // 5, mixing=("nnm",))


def geometric_median(paths: list[Path]) -> None:
    """Aggregate by the Gram matrix."""
    aggregate(FileRows(paths), "geometric_median", f=len(paths) // 5)


WORK: dict[str, Callable[[list[Path]], None]] = {
    "files twice": read_twice,
    "nnm + trimmed_mean": nnm_trimmed_mean,
    "geometric_median": geometric_median,
}


def peak_mib() -> float:
    """Most memory ever resident in this process."""
    with open("/proc/self/status", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def measure(work: str, folder: Path, threads: int) -> None:
    """Run one piece of work in this process and print what it took."""
    paths = sorted(folder.glob("*.safetensors"))
    imported = peak_mib()
    forget(paths)
    wall, cpu = time.perf_counter(), time.process_time()
    with limit_threads(threads):
        WORK[work](paths)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"wall": wall, "cpu": cpu, "peak": peak_mib(), "imported": imported}))


@contextmanager
def clients_on_disk(options: argparse.Namespace) -> Iterator[Path]:
    """Lend the folder of files; it goes with its contents unless it is to be kept."""
    if options.keep:
        folder = options.folder / f"{options.clients}x{options.columns}"
        folder.mkdir(parents=True, exist_ok=True)
        if len(list(folder.glob("*.safetensors"))) != options.clients:
            write(folder, options.clients, options.columns)
        yield folder
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        write(Path(name), options.clients, options.columns)
        yield Path(name)


def main() -> None:
    """Write the clients, run each piece of work in a process of its own, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the files go")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--columns", type=int, default=42_000_000)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--keep", action="store_true", help="keep the files, and use those kept")
    parser.add_argument("--work", choices=WORK, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        measure(options.work, options.folder, options.threads)
        return
    size = options.clients * options.columns * 4
    table = Table(
        "", "wall s", "CPU s", "peak MiB", "of reading twice",
        title=f"{options.clients} clients x {options.columns:,} float32, {size / 1e9:.1f} GB; "
        f"{options.threads} threads on {platform.machine()}, torch {torch.__version__}",
    )  # fmt: skip
    with clients_on_disk(options) as folder:
        base = 0.0
        for work in WORK:
            with console.status(work):
                command = [sys.executable, __file__, "--work", work, "--folder", str(folder)]
                command += ["--threads", str(options.threads)]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
            got = json.loads(done.stdout)
            base = base or got["wall"]
            peak = f"{got['peak']:.0f} ({got['imported']:.0f} of it imports)"
            row = (f"{got['wall']:.2f}", f"{got['cpu']:.2f}", peak, f"{got['wall'] / base:.2f} x")
            table.add_row(work, *row)
    console.print(table)


if __name__ == "__main__":
    main()

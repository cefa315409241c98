"""How many nodes one SuperLink and one fedtune server carry, on one machine.

    python benchmarks/load.py --nodes 60                 # nano's adapter at rank 1: 50 kB a reply
    python benchmarks/load.py --nodes 20 --megabytes 100 # a made-up model: 100 MB a reply

The nodes are threads that speak the protocol over TLS with a key each and train nothing
(light_node.py); SuperLink, server and nodes share the machine, so that time is that of all three.
Every reply must be counted: a missing or refused one ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import _path  # noqa: F401  before anything of ours
import psutil

from fedtune.deployment.folder import DeploymentFolder
from fedtune.nano import model_folder
from fedtune.recipe import Recipe, load_recipe
from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute
from fedtune.training.worker import Worker
from fedtune.transport.flower.control import Control

A_PROCESS = 25  # nodes
LAYERS, HIDDEN, RANK = 5, 1024, 256  # of the made-up model: 25 million numbers in its adapter


def made_up_model(folder: Path) -> Path:
    """A model of nano's shape and tokenizer, so wide that its adapter weighs 100 MB."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    shutil.copytree(model_folder(), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = LlamaConfig.from_pretrained(model_folder())
    config.hidden_size, config.intermediate_size = HIDDEN, 2816
    config.num_hidden_layers, config.num_attention_heads = LAYERS, 16
    config.num_key_value_heads, config.head_dim = 16, HIDDEN // 16
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def recipe_for(folder: Path, fed: DeploymentFolder, nodes: int, megabytes: int) -> Recipe:
    """Rounds of one step, with as little else as there can be."""
    keys = [
        f"federation.num_clients={nodes}",
        f"federation.deployment={fed.path}",
        "federation.num_rounds=3",
        "federation.local_steps=1",
        "federation.round_timeout_s=900",
        "data.partition={by: replicate}",
        "aggregator={name: median, f: 1}",
        "evaluation={every: 1000, max_rows: 4, samples: 0, per_client: false}",
        f"output_dir={folder / 'run'}",
    ]
    if megabytes:
        keys += [f"model.name_or_path={made_up_model(folder / 'model')}", f"lora.r={RANK}"]
    else:
        keys += ["lora.r=1"]
    return load_recipe("three_nodes", keys)


def start(fed: DeploymentFolder, recipe: Recipe, log: Path) -> list[subprocess.Popen[bytes]]:
    """The SuperLink by its own script, and the nodes by the handful."""
    worker = Worker(recipe)
    hashes = [worker.base_hash, worker.base.tokenizer_hash]
    environment = {**os.environ, "FEDTUNE_PYTHON": sys.executable}
    with log.open("ab") as stream:
        quiet = {"stdout": stream, "stderr": stream, "env": environment}
        started = [subprocess.Popen([str(fed.server / "start.sh")], **quiet)]  # type: ignore[call-overload]
        wait_until(fed, 0)
        here = Path(__file__).with_name("light_node.py")
        for first in range(0, len(fed.names), A_PROCESS):
            folders = [str(each) for each in fed.node_folders[first : first + A_PROCESS]]
            command = [sys.executable, str(here), *hashes, fed.local_address, *folders]
            started.append(subprocess.Popen(command, **quiet))  # type: ignore[call-overload]
    wait_until(fed, len(fed.names))
    return started


def wait_until(fed: DeploymentFolder, online: int, patience_s: float = 300.0) -> None:
    """Wait for the SuperLink, and until so many nodes are online."""
    deadline = time.monotonic() + patience_s
    with Control(fed.local_address, fed.ca) as control:
        while time.monotonic() < deadline:
            try:
                if sum(each == "online" for each in control.nodes().values()) >= online:
                    return
            except Exception:
                pass
            time.sleep(0.5)
    raise TimeoutError(f"fewer than {online} nodes came")


class Peak:
    """The most memory that the SuperLink and the server had, looked at twice a second."""

    def __init__(self, superlink: int) -> None:
        self.bytes = {"gated": 0, "guard": 0}
        self._pid, self._stop = superlink, threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while not self._stop.wait(0.5):
            for process in psutil.Process(self._pid).children(recursive=True):
                try:
                    words = " ".join(process.cmdline())
                    for kind, most in self.bytes.items():
                        if f"link.{kind}" in words:
                            self.bytes[kind] = max(most, process.memory_info().rss)
                except psutil.NoSuchProcess:
                    continue

    def end(self) -> None:
        """Look no more."""
        self._stop.set()


def main() -> None:
    """Run three rounds, and print what they took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=60)
    parser.add_argument("--megabytes", type=int, default=0, choices=(0, 100))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, socket.socket() as asked:
        folder = Path(name)
        asked.bind(("127.0.0.1", 0))
        port = int(asked.getsockname()[1])
        asked.close()
        fed = DeploymentFolder.create(folder / "fed", args.nodes, "127.0.0.1", port)
        run, recipe = RunFolder.create(recipe_for(folder, fed, args.nodes, args.megabytes))
        started = start(fed, recipe, folder / "log")
        peak = Peak(started[0].pid)
        try:
            execute(recipe, run)
        finally:
            peak.end()
            for process in reversed(started):
                process.terminate()
        records = run.read_metrics()[1:]
        for each in records:
            if len(each["clients"]) != args.nodes or each["refused"]:
                raise SystemExit(f"round {each['round']} lost replies: {each['refused']}")
        size = records[0]["upload_bytes"] / args.nodes
        stored = sum(file.stat().st_size for file in fed.server.rglob("*.db*"))
    print(f"{args.nodes} nodes, {size / 1e6:.2f} MB a reply, 3 rounds, no reply lost or refused")
    print("round_s: " + ", ".join(f"{each['round_s']:.1f}" for each in records))
    print(f"memory: SuperLink {peak.bytes['gated'] / 1e6:.0f} MB, "
          f"server {peak.bytes['guard'] / 1e6:.0f} MB; database {stored / 1e6:.0f} MB")  # fmt: skip
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, Python {platform.python_version()}")


if __name__ == "__main__":
    main()

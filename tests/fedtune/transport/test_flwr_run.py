"""`flwr run .` from the repository, over a deployment and in Flower's simulation."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from left_by_a_run import adapter_bytes
from network import SMALL, locally, new_deployment

from fedtune.records.folder import RunFolder
from fedtune.transport.flower.deployment_rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
REPOSITORY = Path(__file__).parents[3]


def flwr_run(home, config, *words):
    home.mkdir()
    (home / "config.toml").write_text(config)
    environment = {
        **os.environ,
        "FLWR_HOME": str(home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["flwr", "run", ".", *words, "--format", "json"],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return environment


def wait_for(folder, patience_s=400):
    """The run folder, once its run is whole."""
    deadline = time.monotonic() + patience_s
    told = folder / "events.jsonl"
    while time.monotonic() < deadline:
        kinds = (
            [json.loads(line) for line in told.read_text().splitlines()] if told.is_file() else []
        )
        if kinds and kinds[-1]["kind"] in ("Ended", "Stopped"):
            assert kinds[-1]["kind"] == "Ended", kinds[-1]
            return RunFolder(folder)
        time.sleep(0.5)
    raise AssertionError(f"{folder} has no whole run")


def test_over_a_deployment_it_ends_in_the_bits_of_local(tmp_path):
    fed = new_deployment(tmp_path / "fed")
    out = tmp_path / "run"
    keys = " ".join([f"federation.deployment={fed.path}", f"output_dir={out}", *SMALL])
    config = (
        f'[superlink]\ndefault = "fed"\n[superlink.fed]\naddress = "{fed.local_address}"\n'
        f'root-certificates = "{fed.ca}"\n'
    )
    with rehearse(fed, say=print):
        said = f"recipe='three_nodes' overrides='{keys}'"
        flwr_run(tmp_path / "home", config, "fed", "--run-config", said)
        ran = wait_for(out)
    assert adapter_bytes(ran) == adapter_bytes(locally(tmp_path / "local"))


def test_without_a_deployment_it_is_a_simulation(tmp_path):
    out = tmp_path / "run"
    keys = " ".join([f"output_dir={out}", *SMALL])
    config = '[superlink]\ndefault = "local"\n[superlink.local]\naddress = ":local:"\n'
    said = f"recipe='three_nodes' overrides='{keys}'"
    environment = flwr_run(
        tmp_path / "home", config, "--run-config", said, "--federation-config", "num-supernodes=3"
    )
    try:
        ran = wait_for(out)
    finally:
        for process in Path("/proc").iterdir():  # Flower leaves its SuperLink for the next run
            try:
                there = (process / "environ").read_bytes()
            except OSError:
                continue
            if f"FLWR_HOME={environment['FLWR_HOME']}".encode() in there.split(b"\0"):
                subprocess.run(["kill", process.name], check=False)
    assert adapter_bytes(ran) == adapter_bytes(locally(tmp_path / "local"))

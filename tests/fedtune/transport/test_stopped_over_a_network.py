"""`fedtune run` over a network, stopped from outside: real processes on loopback.

Not proven here: a node that is in the middle of an order trains it to its end; nobody takes what
it sends.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from left_by_a_run import adapter_bytes
from network import SMALL, descendants, locally, new_deployment

from fedtune.records.folder import RunFolder
from fedtune.transport.flower.control import FINISHED, Control
from fedtune.transport.flower.deployment_rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(*args):
    return subprocess.Popen(
        [sys.executable, "-m", "fedtune.cli", "run", *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=dict(os.environ),
    )


def wait_for(there, process, seconds=180):
    deadline = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_stopped_withdraws_its_orders_and_goes_on_to_the_same_bits(tmp_path, number):
    deployment, net = new_deployment(tmp_path / "fed"), RunFolder(tmp_path / "net")
    more = (f"federation.deployment={deployment.path}", f"output_dir={net.path}")
    with rehearse(deployment, say=print) as processes:
        process = command("three_nodes", *SMALL, *more)
        wait_for(lambda: net.metrics.is_file() and len(net.read_metrics()) >= 2, process)
        process.send_signal(number)
        told, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + number
        assert "fedtune run --resume" in told
        assert "Traceback" not in told
        with Control(deployment.local_address, deployment.ca) as control:
            (run_id, *_) = sorted(run_ids(control))
            assert control.state_of(run_id).status == FINISHED
        assert not descendants(processes["superlink"].pid, "flwr-serverapp")
        kept = json.loads(net.metrics.read_text().splitlines()[-1])["round"]
        assert list(net.checkpoints.glob(f"round-*{kept}"))
        again = command("--resume", net.path)
        told, _ = again.communicate(timeout=300)
        assert again.returncode == 0, told
    assert adapter_bytes(net) == adapter_bytes(locally(tmp_path / "local"))


def run_ids(control):
    from flwr.proto.control_pb2 import ListRunsRequest

    return control._client.ListRuns(ListRunsRequest()).run_dict

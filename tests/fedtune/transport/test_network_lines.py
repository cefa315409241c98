"""A node behind a line that is cut, and behind one that is slow: network namespaces, no proxy.

Its address is another machine's to the SuperLink: the gate sees a stranger. Not proven here:
lines that lose or reorder packets, which TCP hides.
"""

import os
import shutil
import subprocess
import sys
import threading
import time

import pytest
from left_by_a_run import adapter_bytes
from network import end_all, locally, run_script, start
from ports import free_port
from test_network_faults import online

from fedtune.deployment.folder import DeploymentFolder
from fedtune.records.events import Refused, RoundFinished

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
SPACE, HERE, THERE = f"fedtune{os.getpid()}", "fthere", "ftthere"


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def line():
    """A network namespace whose only way out is one line to this machine."""
    if shutil.which("ip") is None:
        pytest.skip("needs iproute2")
    try:
        ip("netns", "add", SPACE)
    except subprocess.CalledProcessError:
        pytest.skip("needs the right to make network namespaces")
    try:
        ip("link", "add", HERE, "type", "veth", "peer", "name", THERE, "netns", SPACE)
        ip("addr", "add", "10.77.3.1/24", "dev", HERE)
        ip("link", "set", HERE, "up")
        ip("-n", SPACE, "addr", "add", "10.77.3.2/24", "dev", THERE)
        ip("-n", SPACE, "link", "set", THERE, "up")
        ip("-n", SPACE, "link", "set", "lo", "up")
        yield HERE
    finally:
        subprocess.run(["ip", "netns", "del", SPACE], check=False)
        subprocess.run(["ip", "link", "del", HERE], capture_output=True, check=False)


@pytest.fixture
def deployment(tmp_path, line):
    """Two nodes here, one behind the line."""
    folder = DeploymentFolder.create(tmp_path / "fed", 3, "10.77.3.1", free_port())
    log = tmp_path / "log"
    started = [run_script(folder.server / "start.sh", log)]
    try:
        started += [run_script(node / "start.sh", log) for node in folder.node_folders[:2]]
        with log.open("ab") as stream:
            far = ["ip", "netns", "exec", SPACE, str(folder.node_folders[2] / "start.sh")]
            environment = {**os.environ, "FEDTUNE_PYTHON": sys.executable}
            started.append(
                subprocess.Popen(
                    far, env=environment, stdout=stream, stderr=stream, start_new_session=True
                )
            )
        online(folder)
        yield folder
    finally:
        end_all(started)


def test_a_line_that_is_cut_for_a_while_costs_its_node_that_while(deployment, tmp_path, line):
    def cut():
        ip("link", "set", line, "down")
        time.sleep(25)
        ip("link", "set", line, "up")

    cutting = threading.Thread(target=cut)
    refused = []

    def observe(event):
        if isinstance(event, Refused):
            refused.append((event.round, event.client))
        if isinstance(event, RoundFinished) and event.record.round == 1:
            cutting.start()
            time.sleep(1)
        if isinstance(event, RoundFinished) and event.record.round == 2:
            cutting.join()
            online(deployment)

    keys = ("aggregator={name: median, f: 0}", "federation.round_timeout_s=20")
    records = start(deployment, tmp_path / "net", observe, *keys).read_metrics()
    assert refused == [(2, 2)]
    assert [sorted(each["clients"]) for each in records[1:]] == [
        ["0", "1", "2"],
        ["0", "1"],
        ["0", "1", "2"],
    ]


def test_a_slow_line_is_waited_for_and_ends_in_the_same_bits(deployment, tmp_path, line):
    shape = ["tc", "qdisc", "add", "dev", line, "root", "tbf", "rate", "1mbit", "burst", "32kbit",
             "latency", "400ms"]  # fmt: skip
    if shutil.which("tc") is None or subprocess.run(shape, capture_output=True).returncode:
        pytest.skip("needs tc with the token bucket")
    ran = start(deployment, tmp_path / "net", print, "federation.round_timeout_s=200")
    assert adapter_bytes(ran) == adapter_bytes(locally(tmp_path / "local"))

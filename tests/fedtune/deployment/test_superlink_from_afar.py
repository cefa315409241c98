"""The gate before the real SuperLink, asked from another machine: a network namespace of its own.

Needs root; test_gated_superlink.py asks the same within one process.
"""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from fedtune.deployment.folder import DeploymentFolder

HERE, FAR = f"fedtune-here-{os.getpid()}", f"fedtune-far-{os.getpid()}"
ADDRESS = "192.0.2.1:9443"
# What Flower's own client asks with no more than the authority's certificate, which each node has.
ASK = """
import ssl, sys
from pathlib import Path
import httpx
from flwr.proto.control_pb2 import ListNodesRequest, RegisterNodeRequest
from flwr.supercore.control.control_http_client import ControlHttpClient
from fedtune.deployment.node_keys import new_node_key, public_key_pem
ca = Path(sys.argv[1])
client = ControlHttpClient.from_server_address(
    server_address=sys.argv[2], insecure=False, root_certificates=ca.read_bytes(), interceptors=[]
)
key = public_key_pem(new_node_key("stranger")[1])
for request, ask in (
    (RegisterNodeRequest(public_key=key), client.RegisterNode),
    (ListNodesRequest(), client.ListNodes),
):
    try:
        ask(request)
        print(200)
    except httpx.HTTPStatusError as error:
        print(error.response.status_code)
with httpx.Client(verify=ssl.create_default_context(cafile=str(ca))) as plain:
    for path, size in (
        ("/v1/runtime/acquire-task", 1),
        ("/v1/fleet/../control/list-nodes", 1),
        ("/v1/fleet/%2e%2e/control/list-nodes", 1),
        ("/v1/fleet/pull-messages", 33 * 2**20),
    ):
        local = {"X-Forwarded-For": "127.0.0.1"}
        answer = plain.post(f"https://{sys.argv[2]}{path}", content=b"x" * size, headers=local)
        print(answer.status_code)
"""


def ip(*words):
    return subprocess.run(["ip", *words], check=False, capture_output=True, text=True)


def inside(namespace, *command, **options):
    return subprocess.Popen(
        ["ip", "netns", "exec", namespace, *map(str, command)],
        env={**os.environ, "FEDTUNE_PYTHON": sys.executable},
        start_new_session=True,
        **options,
    )


@pytest.fixture
def two_machines():
    """Two network namespaces with a cable between them: 192.0.2.1 and 192.0.2.2."""
    if shutil.which("ip") is None or ip("netns", "add", HERE).returncode != 0:
        pytest.skip("no network namespaces here: they need root")
    try:
        ip("netns", "add", FAR)
        cable = ("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", FAR)
        if (made := ip("-n", HERE, *cable)).returncode != 0:
            pytest.skip(f"no cable between namespaces: {made.stderr}")
        for name, address in ((HERE, "192.0.2.1/24"), (FAR, "192.0.2.2/24")):
            ip("-n", name, "address", "add", address, "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in (HERE, FAR):
            ip("netns", "delete", name)


def wait_for(log, words, process):
    deadline = time.monotonic() + 300
    while words not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_other_machines_are_nodes_and_nothing_else(two_machines, tmp_path):
    folder = DeploymentFolder.create(tmp_path / "fed", 1, "192.0.2.1", 9443)
    log, joined = tmp_path / "superlink.log", tmp_path / "node.log"
    running = []
    try:
        with log.open("wb") as stream:
            script = folder.server / "start.sh"
            running.append(inside(HERE, script, stdout=stream, stderr=subprocess.STDOUT))
        wait_for(log, "1 new, 0 known", running[-1])
        with joined.open("wb") as stream:
            script = folder.node_folders[0] / "start.sh"
            running.append(inside(FAR, script, stdout=stream, stderr=subprocess.STDOUT))
        wait_for(joined, "SuperNode ID", running[-1])

        bundle_ca = folder.node_folders[0] / "ca.pem"
        words = [sys.executable, "-c", ASK, bundle_ca, ADDRESS]
        with inside(FAR, *words, stdout=subprocess.PIPE, text=True) as stranger:
            asked = stranger.communicate(timeout=120)[0].split()
        # register, list; runtime; two ways around (one client folds the dots itself); too long
        assert asked == ["403", "403", "403", "403", "401", "413"]
        with inside(HERE, *words, stdout=subprocess.PIPE, text=True) as launcher:
            assert launcher.communicate(timeout=120)[0].split()[:2] == ["200", "200"]
    finally:
        for process in running:
            process.send_signal(signal.SIGTERM)
        for process in running:
            process.wait(60)

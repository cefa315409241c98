"""Another account of a node's machine gets no message of the node."""

import contextlib
import os
import socket
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.runtime import RuntimeHttpClient
from ports import free_port

from fedtune.deployment.folder import DeploymentFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture
def node(tmp_path):
    """A node by its own script, whose SuperLink is not there; its port and its folder."""
    folder = DeploymentFolder.create(tmp_path / "fed", 3, "127.0.0.1", free_port())
    port, bundle = free_port(), folder.node_folders[0]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [bundle / "start.sh"],
            env=os.environ | {"FEDTUNE_PYTHON": sys.executable, "FEDTUNE_NODE_PORT": str(port)},
            stdout=log,
            stderr=log,
        )
    try:
        yield port, bundle, process
    finally:
        process.terminate()
        process.wait(40)


def ask_for_a_task(port, *more):
    """The status of the answer, by Flower's own client."""
    client = RuntimeHttpClient.from_server_address(
        server_address=f"127.0.0.1:{port}",
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperExec"), *more],
    )
    try:
        client.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
    except httpx.HTTPStatusError as error:
        return error.response.status_code
    finally:
        client.close()
    return 200


def wait_for(port):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.2)
    raise AssertionError("the SuperNode did not come up")


def signed_with(secret):
    return SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"})
    )


def test_who_does_not_know_the_nodes_secret_gets_no_task(node):
    port, bundle, process = node
    wait_for(port)
    assert ask_for_a_task(port) == 401
    assert ask_for_a_task(port, signed_with(b"a guess")) == 401
    secret = bundle / "run" / "launcher.secret"
    assert ask_for_a_task(port, signed_with(secret.read_bytes())) == 200
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_bytes()) == 32
    deadline, launcher = time.monotonic() + 60, []
    while not launcher and time.monotonic() < deadline:
        time.sleep(0.2)
        launcher = [each for each in below(process.pid) if "launcher" in each]
    ((*_, parent),) = launcher  # one, that ends with the node
    assert int(parent) in {each.pid for each in psutil.Process(process.pid).children(True)}
    assert not any("flower-superexec" in " ".join(each) for each in below(process.pid))


def below(pid):
    """The command line of each process of a node."""
    found = []
    for each in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found.append(each.cmdline())
    return found

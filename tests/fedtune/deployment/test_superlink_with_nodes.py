"""The real thing on loopback: SuperLink and SuperNodes from the scripts, over TLS, by their keys.

Not proven here: a run on them, and other machines (test_superlink_from_afar.py).
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from ports import free_port

from fedtune.deployment.folder import DeploymentFolder
from fedtune.deployment.node_keys import new_node_key, public_key_pem
from fedtune.transport.flower.admit import admit


class Started:
    """A script of a deployment, and what it prints."""

    def __init__(self, script, log, **environment):
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(
                [script],
                cwd="/",
                env={**os.environ, "FEDTUNE_PYTHON": sys.executable, **environment},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, words, *, times=1, timeout_s=300):
        deadline = time.monotonic() + timeout_s
        while self.log.read_text().count(words) < times:
            assert time.monotonic() < deadline, f"no {words!r} in:\n{self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.1)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def start(tmp_path):
    running = []

    def begin(script, **environment):
        running.append(Started(script, tmp_path / f"{len(running)}.log", **environment))
        return running[-1]

    yield begin
    for each in reversed(running):
        each.end()


def processes_of(path):
    """Those whose command line names the folder."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True)
    return [
        line for line in listed.stdout.splitlines() if str(path) in line and "pytest" not in line
    ]


def test_nodes_join_by_their_keys_and_strangers_do_not(start, tmp_path):
    port = free_port()
    folder = DeploymentFolder.create(tmp_path / "a b" / "fed", 2, "127.0.0.1", port)
    superlink = start(folder.server / "start.sh")
    superlink.wait_for("nodes that may join: 2; 2 new, 0 known")
    known = admit(folder)
    assert list(known.nodes) == ["node-00", "node-01"]
    assert not known.new

    node = start(folder.node_folders[1] / "start.sh")
    node.wait_for(f"SuperNode ID: {known.nodes['node-01']}")

    stranger = tmp_path / "stranger"
    shutil.copytree(folder.node_folders[0], stranger)
    (stranger / "node.key").write_bytes(new_node_key("stranger")[0])
    outside = start(stranger / "start.sh")
    outside.wait_for("Exit Code: 305")
    outside.wait_for("node-00 ended (status 1); try 2 of 12")
    assert "SuperNode ID" not in outside.log.read_text()
    assert outside.end() == 143

    # A key struck off the list is let out, and stays out.
    path = folder.path / "deployment.json"
    raw = json.loads(path.read_text())
    struck = raw["nodes"].pop(0)
    path.write_text(json.dumps(raw))
    done = admit(DeploymentFolder.open(folder.path))
    assert (list(done.nodes), done.new, done.let_out) == (
        ["node-01"], [], [known.nodes["node-00"]],
    )  # fmt: skip
    assert admit(DeploymentFolder.open(folder.path)).let_out == []
    raw["nodes"].append(struck)
    path.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=r"node-00: needs a key that was never let out"):
        admit(DeploymentFolder.open(folder.path))
    own = new_node_key("an owner's own")[1]  # its owner makes another
    raw["nodes"][1]["public_key"] = own
    path.write_text(json.dumps(raw))
    assert admit(DeploymentFolder.open(folder.path)).new == ["node-00"]
    assert DeploymentFolder.open(folder.path).public_keys[1] == public_key_pem(own)

    assert node.end() == 143
    assert superlink.end() == 143
    deadline = time.monotonic() + 30  # SuperExec looks for its parent every few seconds
    while left := processes_of(tmp_path):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def test_a_superlink_that_is_not_there_is_told(tmp_path):
    folder = DeploymentFolder.create(tmp_path / "fed", 1, "127.0.0.1", free_port())
    with pytest.raises(
        ConnectionError, match=r"needs the SuperLink of .*; start it with: .*start\.sh"
    ):
        admit(folder, patience_s=0.3)


@pytest.mark.slow
def test_a_superlink_of_another_deployment_is_not_commanded(start, tmp_path):
    port = free_port()
    mine = DeploymentFolder.create(tmp_path / "mine", 1, "127.0.0.1", port)
    other = DeploymentFolder.create(tmp_path / "other", 1, "127.0.0.1", port)
    start(other.server / "start.sh").wait_for("1 new, 0 known")
    with pytest.raises(ConnectionError, match=r"certificate verify failed"):
        admit(mine, patience_s=0.3)
    started = start(mine.server / "start.sh")  # the port is taken
    assert started.process.wait(300) != 0
    assert "address already in use" in started.log.read_text().lower()

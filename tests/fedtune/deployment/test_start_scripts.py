"""How start.sh minds its child: what it starts, when it does so again, that nothing outlives it.

Flower is a stand-in here, and sleeping takes no time; test_superlink_with_nodes.py has the real
one.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from unittest.mock import ANY

import pytest

from fedtune.deployment.scripts import TRIES

# A python that finds its scripts where the stand-ins are, and runs of a node the SuperNode alone;
# a sleep that is over at once.
STAND_INS = {
    "python": '#!/bin/sh\n[ -z "$NO_FEDTUNE" ] || exit 1\n'
    'if [ "$2" = -m ]; then echo "$3 $4" > "$STAND_INS/around"; shift 4; exec "$@"; fi\n'
    'case "$3" in *create_server*) exec "$REAL_PYTHON" "$@";; esac\necho "$STAND_INS"\n',
    "sleep": '#!/bin/sh\necho "$@" >> "$STAND_INS/slept"\n'
    '[ "$1" = 0.2 ] || exec /bin/sleep "${PAUSE:-0.01}"\n',
    "flower-supernode": '#!/bin/sh\nenv >> "$STAND_INS/env"\n'
    'printf "%s\\n" "$@" START >> "$STAND_INS/asked"\n. "$STAND_INS/behaviour"\n',
}
STAYS = '/bin/sleep 1000 & echo $! >> "$STAND_INS/below"; echo $$ >> "$STAND_INS/pid"; wait\n'


@pytest.fixture
def node(three_nodes, tmp_path):
    """Start a copy of node-01, in a folder with a space, with a Flower that behaves as told."""
    bundle, stand_ins = tmp_path / "a b" / "node-01", tmp_path / "bin"
    shutil.copytree(three_nodes.node_folders[1], bundle)
    stand_ins.mkdir()
    for name, text in STAND_INS.items():
        (stand_ins / name).write_text(text)
        (stand_ins / name).chmod(0o755)
    started = []

    def start(behaviour, **environment):
        (stand_ins / "behaviour").write_text(behaviour)
        process = subprocess.Popen(
            [bundle / "start.sh"],
            cwd="/",
            env={
                **os.environ,
                "FEDTUNE_PYTHON": str(stand_ins / "python"),
                "STAND_INS": str(stand_ins),
                "REAL_PYTHON": sys.executable,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        process.bundle, process.stand_ins = bundle, stand_ins
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(20)
        process.stdout.close()


def told(process, name):
    path = process.stand_ins / name
    return path.read_text() if path.exists() else ""


def until(condition, what):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def is_gone(pid):
    """Not there, or dead and not yet buried by whoever should."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_what_is_started(node):
    process = node("exit 0\n", FORWARDED_ALLOW_IPS="*")
    until(lambda: "START" in told(process, "asked"), "nothing was started")
    process.terminate()
    bundle = process.bundle
    asked = told(process, "asked").splitlines()
    assert asked[: asked.index("START")] == [
        "--superlink", "127.0.0.1:9443", "--root-certificates", f"{bundle}/ca.pem",
        "--auth-supernode-private-key", f"{bundle}/node.key", "--host", "127.0.0.1",
        "--node-config", f'partition-id=1 fedtune-node="{bundle}"', "--port", ANY,
    ]  # fmt: skip
    assert told(process, "around") == f"fedtune.node.supervisor {bundle}\n"
    assert 1024 <= int(asked[asked.index("--port") + 1]) <= 65535
    around = dict(line.partition("=")[::2] for line in told(process, "env").splitlines())
    assert around["FLWR_HOME"] == f"{bundle}/flwr"
    for switch, value in {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
    }.items():
        assert around[switch] == value


def test_address_and_port_can_be_set(node):
    process = node("exit 0\n", FEDTUNE_SUPERLINK="superlink:1", FEDTUNE_NODE_PORT="7")
    until(lambda: "START" in told(process, "asked"), "nothing was started")
    assert told(process, "asked").splitlines()[:2] == ["--superlink", "superlink:1"]
    assert "--port\n7\n" in told(process, "asked")


def test_a_refused_node_tries_again_ever_more_slowly_and_then_says_what_to_look_at(node):
    process = node("exit 1\n")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert told(process, "asked").count("START") == TRIES == 12
    pauses = [pause for pause in told(process, "slept").split() if pause not in {"0.2"}]
    assert pauses == ["3", "6", "12", *["15"] * 8]
    # 3 + 6 + 12 + 8 x 15 = 141 s, beyond the 60 s for which a killed node's key is refused.
    assert "try 2 of 12 in 3 s: after a kill its key is refused for up to 60 s" in output
    assert "error: node-01 ended 12 times in a row: is its key in the launcher's" in output


def test_a_node_that_dies_comes_back(node):
    process = node(STAYS)
    until(lambda: told(process, "pid"), "no first start")
    os.kill(int(told(process, "pid")), signal.SIGKILL)
    until(lambda: len(told(process, "pid").split()) == 2, "no second start")
    first, second = told(process, "below").split()
    until(lambda: is_gone(first), "what the first one started is left")
    assert not is_gone(second)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)
def test_all_below_ends_with_the_script(node, number, code):
    process = node(STAYS)
    until(lambda: told(process, "below"), "no start")
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == code
    for pid in told(process, "pid").split() + told(process, "below").split():
        until(lambda pid=pid: is_gone(pid), "something is left")


def test_what_will_not_end_is_killed(node):
    process = node(f"trap '' TERM\n{STAYS.replace('wait', 'while true; do wait; done')}")
    until(lambda: told(process, "below"), "no start")
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 143
    for pid in told(process, "pid").split() + told(process, "below").split():
        until(lambda pid=pid: is_gone(pid), "something is left")


def test_a_signal_between_two_tries_ends_it_at_once(node):
    process = node("exit 1\n", PAUSE="1000")
    until(lambda: "3\n" in told(process, "slept"), "no pause")
    process.terminate()
    process.communicate(timeout=30)  # returns when all that holds its output is gone
    assert process.returncode == 143


def can_bind():
    if shutil.which("setpriv") is None:
        return False
    command = ["setpriv", "--pdeathsig", "TERM", "true"]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.mark.skipif(not can_bind(), reason="no setpriv --pdeathsig")
def test_a_script_that_is_killed_takes_its_child_along(node):
    # What Flower's SuperNode has started watches it, and ends by itself.
    process = node('echo $$ >> "$STAND_INS/pid"; exec /bin/sleep 1000\n')
    until(lambda: told(process, "pid"), "no start")
    process.kill()
    process.communicate(timeout=60)
    until(lambda: is_gone(told(process, "pid").strip()), "the node lives on")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622, 0o644])
def test_an_open_key_is_refused(node, three_nodes, mode):
    process = node("exit 0\n")
    process.terminate()
    process.communicate(timeout=60)
    (process.bundle / "node.key").chmod(mode)
    again = node(STAYS)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 2
    assert "node.key needs to be closed to others: chmod 600 it" in output


def test_a_missing_key_and_a_python_without_fedtune_are_told(node):
    process = node(STAYS, NO_FEDTUNE="1")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "need a Python that holds fedtune" in output
    assert "or set FEDTUNE_PYTHON" in output
    (process.bundle / "node.key").unlink()
    again = node(STAYS)
    output, _ = again.communicate(timeout=60)
    assert again.returncode == 2
    assert f"need {process.bundle}/node.key: it is not here" in output


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb"])
def test_a_path_that_flower_could_not_read_is_refused(node, tmp_path, name):
    process = node("exit 0\n")
    process.terminate()
    process.communicate(timeout=60)
    odd = tmp_path / name
    shutil.copytree(process.bundle, odd)
    found = subprocess.run(
        [odd / "start.sh"],
        env={
            **os.environ,
            "FEDTUNE_PYTHON": str(process.stand_ins / "python"),
            "STAND_INS": str(process.stand_ins),
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert found.returncode == 2
    assert "need a path without quotes, backslashes and line ends" in found.stderr

"""A node keeps its worker going, without end and without haste, and kills one that hangs."""

import os
import re
import socket
import sys
import threading
import time

import pytest

from fedtune.node import processes as keeping
from fedtune.node import supervisor as node
from fedtune.node.budget import Ledger, Working, make_state
from fedtune.node.processes import Child, Kept, Watchdog


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(node, "_WATCH_S", 0.01)
    for name, value in {"AGAIN_S": 0.02, "LONGEST_PAUSE_S": 0.1, "LASTED_S": 5.0}.items():
        monkeypatch.setattr(keeping, name, value)


def watched(worker_command, node_command, until, folder=None):
    """What is said while both run, until a condition on it holds; and what was returned."""
    said, stop, code = [], threading.Event(), []
    worker, supernode = (Child(words, os.environ, None) for words in (worker_command, node_command))
    supernode.start()
    kept, dog = [Kept("worker", worker)], Watchdog(Ledger(folder), worker) if folder else None
    thread = threading.Thread(
        target=lambda: code.append(node._watch(kept, supernode, said.append, stop, dog))
    )
    thread.start()
    deadline = time.monotonic() + 10
    while not until(said) and thread.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    stop.set()
    thread.join()
    worker.end()
    supernode.end()
    return said, code[0]


def test_a_worker_that_cannot_start_is_tried_ever_more_rarely(quick):
    said, code = watched(["false"], ["sleep", "60"], lambda said: len(said) >= 4)
    pauses = [float(re.search(r"again in ([\d.]+) s", line).group(1)) for line in said]
    assert pauses[:4] == [0.04, 0.08, 0.1, 0.1]
    assert "exit 1" in said[0]
    assert code == 0


def test_a_worker_that_was_well_is_started_again_soon(quick, monkeypatch):
    monkeypatch.setattr(keeping, "LASTED_S", 0.05)
    said, _ = watched(["sleep", "0.2"], ["sleep", "60"], lambda said: len(said) >= 2)
    assert all("again in 0.02 s" in line for line in said)


def test_a_node_whose_supernode_ends_ends_as_it_did(quick):
    said, code = watched(["sleep", "60"], ["sh", "-c", "exit 3"], lambda said: False)
    assert (said, code) == ([], 3)


# A regular expression that holds the interpreter: no thread and no signal handler of Python runs.
HANGS = """
import re, sys, time
from pathlib import Path
from fedtune.node.budget import Ledger, Working
with Ledger(Path(sys.argv[1])).change() as book:
    book.settle()
    book.working = Working(since=time.time(), limit_s=1.0)
re.fullmatch("([a-z._0-9]+)+X", "a" * 64)
"""


def test_a_worker_that_hangs_is_killed_when_its_orders_time_is_over(quick, tmp_path):
    make_state(tmp_path)
    began = time.monotonic()
    said, _ = watched(
        [sys.executable, "-c", HANGS, str(tmp_path)],
        ["sleep", "60"],
        lambda said: any("again" in line for line in said),
        tmp_path,
    )
    assert said[0] == "the worker was killed: its order took more than 1 s (max_order_s)"
    assert "the worker ended (signal 9)" in said[1]
    assert time.monotonic() - began < 8
    book = Ledger(tmp_path).read()
    assert 1.0 <= book.seconds < 8
    assert book.working is None or book.seconds >= 1.0  # the next may have begun


def test_a_worker_that_died_is_charged_the_time_that_it_had(quick, tmp_path):
    make_state(tmp_path)
    with Ledger(tmp_path).change() as book:
        book.working = Working(since=time.time() - 3.0, limit_s=100)
    worker = Child(["true"], os.environ, None)
    worker.start()
    worker.process.wait()
    Watchdog(Ledger(tmp_path), worker).settle()
    book = Ledger(tmp_path).read()
    assert book.working is None
    assert 3.0 <= book.seconds < 30


def test_a_port_is_ours_only_when_our_process_holds_it():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = Child(["sleep", "30"], os.environ, None)
        assert not other.listens_on(port)
        other.start()
        assert not other.listens_on(port)
        other.end()
    assert not other.listens_on(port)
    serves = "import socket, time\ns = socket.create_server(('127.0.0.1', PORT))\ntime.sleep(30)"
    ours = Child([sys.executable, "-c", serves.replace("PORT", str(port))], os.environ, None)
    ours.start()
    deadline = time.monotonic() + 10
    while not ours.listens_on(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours.listens_on(port)
    ours.kill()
    assert ours.code() == -9


def test_a_log_is_begun_anew_before_it_fills_the_disk(monkeypatch, tmp_path):
    # An order that is refused is logged too, and a server may send as many as it likes.
    monkeypatch.setattr(keeping, "MAX_LOG_BYTES", 10_000)
    log = tmp_path / "worker.log"
    words = [sys.executable, "-uc", "while True: print('x' * 99)"]
    child = Child(words, os.environ, log)
    kept, seen = Kept("worker", child), 0
    deadline = time.monotonic() + 20
    while seen < 5 and time.monotonic() < deadline:
        kept.look()
        if log.with_name("worker.log.old").exists():
            seen += 1
            log.with_name("worker.log.old").unlink()
    child.kill()
    kept.look()
    keeping.turn_over(log)
    assert seen == 5
    assert log.stat().st_size <= 10_000
    assert set(log.read_text()) <= {"x", "\n"}  # no hole where the text before was
    keeping.turn_over(tmp_path / "none.log")

"""A node keeps its worker going, without end and without haste."""

import os
import re
import threading
import time

import pytest

from fedtune.federation.link import node
from fedtune.federation.link.node import Child


@pytest.fixture
def quick(monkeypatch):
    for name, value in {
        "_WATCH_S": 0.01, "_AGAIN_S": 0.02, "_LONGEST_PAUSE_S": 0.1, "_LASTED_S": 5.0
    }.items():  # fmt: skip
        monkeypatch.setattr(node, name, value)


def watched(worker_command, node_command, until):
    """What is said while both run, until a condition on it holds; and what was returned."""
    said, stop, code = [], threading.Event(), []
    worker, supernode = (Child(words, os.environ, None) for words in (worker_command, node_command))
    worker.start()
    supernode.start()
    thread = threading.Thread(
        target=lambda: code.append(node._watch(worker, supernode, said.append, stop))
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
    monkeypatch.setattr(node, "_LASTED_S", 0.05)
    said, _ = watched(["sleep", "0.2"], ["sleep", "60"], lambda said: len(said) >= 2)
    assert all("again in 0.02 s" in line for line in said)


def test_a_node_whose_supernode_ends_ends_as_it_did(quick):
    said, code = watched(["sleep", "60"], ["sh", "-c", "exit 3"], lambda said: False)
    assert (said, code) == ([], 3)

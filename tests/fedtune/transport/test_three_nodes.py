"""Three nodes over TLS, each with its key: real processes on loopback, and the bits of `local`.

Not proven here: several machines, a line that loses packets, a SuperLink under load.
"""

import json
import os
import signal
import time

import pytest
from left_by_a_run import adapter_bytes
from network import locally, new_deployment, start, workers
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.node.budget import Ledger
from fedtune.records.events import Refused, Replied, RoundFinished
from fedtune.records.folder import RunFolder
from fedtune.records.signed_chain import sign
from fedtune.transport.flower.deployment_rehearsal import rehearse

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def deployment(tmp_path):
    folder = new_deployment(tmp_path / "fed")
    with rehearse(folder, say=print) as processes:
        yield folder, processes


def test_a_run_over_the_network_has_the_bits_of_local(deployment, tmp_path):
    folder, _ = deployment
    seen, began = [], time.monotonic()
    first = []

    def observe(event):
        seen.append(event)
        if isinstance(event, Replied) and not first:
            first.append(time.monotonic() - began)

    ran = start(folder, tmp_path / "net", observe)
    print(f"first reply after {first[0]:.1f} s")
    assert sum(isinstance(event, RoundFinished) for event in seen) == 3
    assert not [event for event in seen if isinstance(event, Refused)]
    beside = locally(tmp_path / "local")
    assert adapter_bytes(ran) == adapter_bytes(beside)
    there, here = (RunFolder(f.path).read_metrics()[-1] for f in (ran, beside))
    assert there["eval"] == here["eval"]
    assert there["revision"] == here["revision"]
    said = json.loads((ran.path / "clients.json").read_text())
    assert [said[client]["rows"] for client in "012"] == [None] * 3  # no owner lets it be told
    assert (
        RunFolder(ran.path).read_manifest().client_rows == []
    )  # the recipe's own deal is no one's
    assert len({said[client]["schema_hash"] for client in "012"}) == 1


def verify(run, node, *words):
    done = CliRunner().invoke(app, ["verify", str(run.path), "--node", str(node), *words])
    return done.exit_code, " ".join(done.output.split())


def test_every_node_finds_its_replies_and_whoever_has_them_the_anchors(deployment, tmp_path):
    folder, _ = deployment
    ran = start(folder, tmp_path / "net", print, "federation.keep_replies=true")
    for number, node in enumerate(folder.node_folders):
        words = ("--deployment", str(folder.path)) if number else ("--recompute",)
        code, said = verify(ran, node, *words)
        assert code == 0, said
        assert f"is client {number}" in said
        assert said.count("counted as sent") == 3
        assert said.count("the same bits") == (0 if number else 3)
    # Nothing that a node may ask the SuperLink for names the launcher's folders.
    for file in (folder.server).glob("superlink.db*"):
        held = file.read_bytes()
        assert str(ran.path).encode() not in held
    assert not list(folder.server.glob("run-*"))
    lines = ran.metrics.read_bytes().splitlines(keepends=True)
    ran.metrics.write_bytes(b"".join(lines[:-1]))
    sign(ran, folder.server_certificate, folder.server_key)
    code, said = verify(ran, folder.node_folders[2])
    assert code == 1
    assert "round 3: this node has sent a reply, and the record has no such round" in said


def test_a_worker_that_is_killed_is_started_again_and_costs_one_reply(deployment, tmp_path):
    folder, _ = deployment
    killed = []

    def kill(event):
        if isinstance(event, RoundFinished) and not killed:
            killed.append(workers(folder)["node-01"])
            os.kill(killed[0], signal.SIGKILL)

    ran = start(folder, tmp_path / "net", kill)
    assert killed
    assert workers(folder)["node-01"] != killed[0]
    assert adapter_bytes(ran) == adapter_bytes(locally(tmp_path / "local"))


def test_nothing_of_a_node_outlives_it(deployment):
    folder, processes = deployment
    there = workers(folder)
    assert len(there) == 3
    os.kill(processes["node-02"].pid, signal.SIGTERM)
    processes["node-02"].wait(30)
    deadline = time.monotonic() + 10
    while "node-02" in workers(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert set(workers(folder)) == {"node-00", "node-01"}


def test_what_the_owner_forbids_is_refused_with_the_reason(deployment, tmp_path):
    folder, _ = deployment
    (folder.path / "nodes" / "node-01" / "node.yaml").write_text("max_local_steps: 1\n")
    seen = []
    ran = start(folder, tmp_path / "net", seen.append, "aggregator={name: median, f: 0}")
    (refused,) = {(event.client, event.reason) for event in seen if isinstance(event, Refused)}
    assert refused[0] == 1
    assert "local_steps: 2 of at most 1" in refused[1]
    lines = ran.metrics.read_text().splitlines()
    assert json.loads(lines[-1])["round"] == 3


def test_an_order_that_takes_too_long_has_its_worker_killed_and_the_day_is_charged(
    deployment, tmp_path
):
    folder, _ = deployment
    node = folder.path / "nodes" / "node-01"
    seen = []

    def observe(event):
        seen.append(event)
        if isinstance(event, RoundFinished):  # read anew at each order
            (node / "node.yaml").write_text("max_order_s: 1\n")

    long = ["federation.num_rounds=2", "federation.max_retries=0", "federation.local_steps=60"]
    ran = start(folder, tmp_path / "net", observe, *long, "aggregator={name: median, f: 0}")
    refused = {event.client: event.reason for event in seen if isinstance(event, Refused)}
    assert list(refused) == [1]
    assert "the worker ended while it worked" in refused[1]
    assert json.loads(ran.metrics.read_text().splitlines()[-1])["round"] == 2
    said = (folder.path / "logs" / "node-01.log").read_text()
    assert "the worker was killed: its order took more than 1 s (max_order_s)" in said
    book = Ledger(node).read()
    assert (book.orders, book.begun, book.working) == (3, 1, None)  # who it is, and two rounds
    assert book.seconds >= 1

"""One valid key against a run: three honest nodes and a hostile one, over TLS.

It announces what the others are about to send, under children that do not exist; before there was
a nonce in every piece, each honest reply was then refused with HTTP 500, and the run stopped. Not
proven here: several hostile nodes, several machines.
"""

import hashlib
import json
import socket
import ssl
import time

import psutil
import pytest
from flwr.app import ConfigRecord
from flwr.proto.message_pb2 import ObjectTree
from left_by_a_run import adapter_bytes
from network import end_all, run_script, start
from ports import free_port
from raw_node import RawNode
from test_network_faults import online

from fedtune.deployment.folder import DeploymentFolder

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
KEYS = ("federation.num_clients=4", "federation.num_rounds=2", "federation.round_timeout_s=45")
WAYS = {
    "both factors": (),
    "unchanged factors, commitments": (
        "lora.train=b_only",
        "federation.commit_then_reveal=true",
    ),
}


def silent(node, order, words):
    """Answer nothing."""


def hostile(node, order, words):
    """Announce the words of the others' replies, and of the server's next order."""
    hashes = {name: words.get(name, "") for name in ("base_hash", "tokenizer_hash", "anchor_hash")}
    about = ConfigRecord({"round": words["round"], **hashes})
    reveal = ConfigRecord({"recipe_hash": hash_of(words["recipe"]), "round": words["round"]})
    many = [ObjectTree(object_id=hash_of(f"{order.message_id} {each}")) for each in range(2_000)]
    node.announce("many", order, hash_of("many" + order.message_id), many)
    guessed = [
        ObjectTree(object_id=each.object_id, children=many[number : number + 1])
        for number, each in enumerate((about, reveal))
    ]
    records = ObjectTree(object_id=hash_of("records" + order.message_id), children=guessed)
    root = hash_of("root" + order.message_id)
    node.announce("guessed", order, root, [records])
    node.announce("again", order, root, many[:2])


def hash_of(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def deployment(tmp_path):
    """A SuperLink and three of its four nodes."""
    folder = DeploymentFolder.create(tmp_path / "fed", 4, "127.0.0.1", free_port())
    log = tmp_path / "log"
    started = [run_script(folder.server / "start.sh", log)]
    try:
        started += [run_script(node / "start.sh", log) for node in folder.node_folders[:3]]
        yield folder, started[0]
    finally:
        end_all(started)


def test_the_run_ends_with_the_bits_of_one_in_which_that_node_is_silent(deployment, tmp_path):
    folder, _ = deployment
    wait_until_listening(folder)
    for number, keys in enumerate(WAYS.values()):
        ran = []
        for act in (hostile, silent):
            with RawNode(folder, act) as node:
                online(folder)
                path = tmp_path / f"{number}-{act.__name__}"
                ran.append(start(folder, path, lambda event: None, *KEYS, *keys))
            records = [each for each in ran[-1].read_metrics() if each["round"]]
            assert [each["round"] for each in records] == [1, 2]
            assert [set(each["clients"]) for each in records] == [{"0", "1", "2"}] * 2
            if act is hostile:
                print(json.dumps(node.noted))
                assert {what for what, _, _ in node.noted} == {"many", "guessed", "again"}
                assert len(node.noted) == 6
                assert all(took < 5 for _, _, took in node.noted)
                assert {done for what, done, _ in node.noted if what != "guessed"} == {
                    "RunNotRunningException"  # Flower's word for a 403
                }
        assert adapter_bytes(ran[0]) == adapter_bytes(ran[1])


def test_connections_that_stall_hold_no_memory_and_are_hung_up_on(deployment):
    """Twenty at 31 of 32 MiB held 600 MB for good, without any key."""
    folder, process = deployment
    wait_until_listening(folder)
    (superlink,) = [
        each
        for each in psutil.Process(process.pid).children(recursive=True)
        if "fedtune.transport.flower.gated" in each.cmdline()
    ]
    with RawNode(folder, silent):  # what it takes to serve one is no one's attack
        online(folder)
    before = superlink.memory_info().rss
    trusted = ssl.create_default_context(cafile=str(folder.ca))
    stalled = [dial(folder, trusted) for _ in range(20)]
    for number, each in enumerate(stalled):
        size = 5 * 2**20 if number % 2 else 32 * 2**20
        head = f"POST /v1/fleet/push-object HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        flood(each, head.encode() + bytes(size - 2**20))
    idle = [dial(folder, trusted) for _ in range(40)]
    for each in idle[:20]:
        each.sendall(b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: ")
    heads = [dial(folder, trusted) for _ in range(10)]
    for each in heads:
        flood(
            each, b"POST /v1/fleet/pull-messages HTTP/1.1\r\nHost: x\r\nA: " + bytes(b"a" * 2**23)
        )
    bare = [socket.create_connection(("127.0.0.1", port_of(folder))) for _ in range(20)]
    assert superlink.memory_info().rss - before < 60e6
    assert {status(each) for each in stalled} <= {b"401", b"413", b""}
    began = time.monotonic()
    for each in [*stalled, *idle, *heads, *bare]:
        each.settimeout(60)
        assert ended(each)
        each.close()
    assert time.monotonic() - began < 40
    with RawNode(folder, silent):
        online(folder)


def port_of(folder):
    return int(folder.local_address.rsplit(":", 1)[1])


def dial(folder, trusted):
    plain = socket.create_connection(("127.0.0.1", port_of(folder)), timeout=60)
    return trusted.wrap_socket(plain, server_hostname="127.0.0.1")


def flood(connection, content):
    """Send all of it, or as much as is taken."""
    connection.settimeout(2)
    try:
        connection.sendall(content)
    except OSError:
        return


def status(connection):
    try:
        return connection.recv(4096)[9:12]
    except OSError:
        return b""


def ended(connection):
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


def wait_until_listening(folder, patience_s=120):
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port_of(folder)), timeout=5).close()
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.5)

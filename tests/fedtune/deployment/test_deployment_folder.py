"""The deployment folder: what is in it, how it is closed, and that it is whole or absent."""

import errno
import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from flwr.cli.supernode.register import try_load_public_key

from fedtune.deployment import making
from fedtune.deployment.folder import DeploymentFolder

TOP = {"README.md", "compose.yaml", "deployment.json", "image", "nodes", "server"}
SERVER = {
    "ca.pem", "ca.key", "server.pem", "server.key", "start.sh", "register.sh", "superlink.service",
}  # fmt: skip
NODE = {
    "ca.pem", "node.key", "node.pub", "node.yaml", "start.sh", "supernode.service", "README.md",
}  # fmt: skip


def create(path, nodes=2, host="127.0.0.1", port=9443, **options):
    return DeploymentFolder.create(path, nodes, host, port, **options)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_the_layout(three_nodes):
    assert names(three_nodes.path) == TOP
    assert names(three_nodes.server) == SERVER
    assert three_nodes.names == ["node-00", "node-01", "node-02"]
    assert [path.name for path in three_nodes.node_folders] == three_nodes.names
    assert all(names(bundle) == NODE for bundle in three_nodes.node_folders)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_modes_under_any_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        folder = create(tmp_path / "fed")
    finally:
        os.umask(before)
    for path in [folder.path, *folder.path.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix == ".key":
            assert mode == 0o600, path
        else:
            assert mode == (0o755 if path.suffix == ".sh" else 0o644) & ~umask, path


def test_keys_are_closed_from_the_moment_they_exist(tmp_path, monkeypatch):
    opened = []
    real = os.open

    def watched(path, flags, mode=0o777, **rest):
        opened.append((Path(os.fsdecode(path)), flags, mode))
        return real(path, flags, mode, **rest)

    monkeypatch.setattr(os, "open", watched)
    create(tmp_path / "fed")
    keys = [
        (flags, mode)
        for path, flags, mode in opened
        if path.suffix == ".key" and flags & os.O_CREAT
    ]
    assert len(keys) == 4  # of the authority, the SuperLink and two nodes
    assert all(mode == 0o600 and flags & os.O_EXCL for flags, mode in keys)


def secrets_in(path):
    """The lines of a private key, each long enough to be found anywhere else."""
    lines = path.read_text().splitlines()[1:-1]
    return [line for line in lines if len(line) > 40]


def test_a_secret_lies_where_it_belongs_and_nowhere_else(three_nodes):
    for key in three_nodes.path.rglob("*.key"):
        # The head of an OpenSSH key is the public key's: the last line holds the private number.
        secret = secrets_in(key)[-1]
        holding = [
            path
            for path in three_nodes.path.rglob("*")
            if path.is_file() and secret in path.read_text()
        ]
        assert holding == [key]


def test_a_bundle_holds_nothing_of_another_node(three_nodes):
    for bundle in three_nodes.node_folders:
        text = "".join(path.read_text() for path in bundle.iterdir())
        for name, member in zip(three_nodes.names, three_nodes.description.nodes, strict=True):
            of_its_own = bundle.name == name
            assert (member.public_key.split()[1] in text) is of_its_own
            assert (name in text) is of_its_own


def test_keys_stand_in_the_clients_order_and_are_those_of_the_bundles(three_nodes):
    shown = [try_load_public_key(bundle / "node.pub") for bundle in three_nodes.node_folders]
    held = [
        serialization.load_ssh_private_key((bundle / "node.key").read_bytes(), None)
        for bundle in three_nodes.node_folders
    ]
    form = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert (
        three_nodes.public_keys == shown == [key.public_key().public_bytes(*form) for key in held]
    )
    assert len(set(shown)) == 3


@pytest.mark.parametrize(
    ("host", "address", "local"),
    [
        ("127.0.0.1", "127.0.0.1:9443", "127.0.0.1:9443"),
        ("Fed.example.org", "fed.example.org:9443", "127.0.0.1:9443"),
        ("2001:db8:0::1", "[2001:db8::1]:9443", "[::1]:9443"),
    ],
)
def test_what_opens_is_what_was_made(tmp_path, host, address, local):
    made = create(tmp_path / "fed", host=host, days=30)
    opened = DeploymentFolder.open(tmp_path / "fed")
    assert opened == made
    assert (opened.address, opened.local_address) == (address, local)
    assert timedelta(29) < opened.expires - datetime.now(UTC) < timedelta(30)
    for path in (opened.ca, opened.ca_key, opened.server_certificate, opened.server_key):
        assert path.is_file()


def test_a_folder_may_be_moved_and_its_bundles_handed_out(tmp_path):
    create(tmp_path / "fed")
    (tmp_path / "fed").rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "nodes").rename(tmp_path / "handed-out")
    (tmp_path / "elsewhere" / "server" / "ca.key").unlink()
    assert len(DeploymentFolder.open(tmp_path / "elsewhere").public_keys) == 2


def test_names_grow_with_the_number_and_200_nodes_are_quick(tmp_path):
    began = time.process_time()
    folder = create(tmp_path / "fed", nodes=200)
    # 0.9 s on two idle cores; CPU seconds, for other work beside it stretches the others tenfold.
    assert time.process_time() - began < 5
    assert folder.names[0] == "node-000"
    assert folder.names[-1] == "node-199"
    assert len(set(folder.public_keys)) == 200


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"nodes": 0}, "--nodes needs 1 to 1000: got 0"),
        ({"nodes": -3}, "--nodes needs 1 to 1000: got -3"),
        ({"nodes": 10_000}, "--nodes needs 1 to 1000: got 10000"),
        ({"port": 0}, "--port needs 1 to 65535: got 0"),
        ({"port": 65_536}, "--port needs 1 to 65535: got 65536"),
        ({"host": "not a host"}, "--host needs an IP address or a DNS name: got 'not a host'"),
        ({"days": 0}, "--days needs 1 to 3650: got 0"),
    ],
)
def test_wrong_numbers_leave_nothing(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=told):
        create(tmp_path / "above" / "fed", **wrong)
    assert not any(tmp_path.iterdir())


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "fed").mkdir()
    assert create(tmp_path / "fed").names == ["node-00", "node-01"]
    assert stat.S_IMODE((tmp_path / "fed").stat().st_mode) == 0o700


@pytest.mark.parametrize("what", ["a file", "a folder", "a deployment", "a hidden file"])
def test_what_is_there_stays(tmp_path, what):
    path = tmp_path / "fed"
    if what == "a file":
        path.write_text("mine")
    elif what == "a deployment":
        create(path)
    else:
        path.mkdir()
        (path / (".mine" if "hidden" in what else "mine")).write_text("mine")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    with pytest.raises(
        FileExistsError, match=r"needs to be new, or an empty folder: it .*; name another"
    ):
        create(path)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


def test_a_folder_above_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        OSError, match=r"needs a folder above it that can be written: .*; name another"
    ):
        create(tmp_path / "file" / "fed")
    with pytest.raises(OSError, match=r"needs a folder above it that can be written"):
        create(Path("/proc/none/fed"))
    assert names(tmp_path) == {"file"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_above(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match=r"needs a folder above it that can be written"):
        create(tmp_path / "fed")


@pytest.mark.parametrize("after", [1, 7, 20])
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, after):
    real, written = making.write_new, []

    def full(path, content, **options):
        written.append(path)
        if len(written) > after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        real(path, content, **options)

    monkeypatch.setattr(making, "write_new", full)
    with pytest.raises(OSError, match="No space left"):
        create(tmp_path / "one" / "two" / "fed")
    assert len(written) == after + 1
    assert not any(tmp_path.iterdir())


def test_a_folder_filled_in_the_meantime_stays(tmp_path, monkeypatch):
    path, real = tmp_path / "fed", making._write_all

    def meanwhile(*arguments, **options):
        real(*arguments, **options)
        path.mkdir()
        (path / "mine").write_text("mine")

    monkeypatch.setattr(making, "_write_all", meanwhile)
    with pytest.raises(FileExistsError, match="it holds something"):
        create(path)
    assert [each.relative_to(tmp_path).as_posix() for each in tmp_path.rglob("*")] == [
        "fed",
        "fed/mine",
    ]

"""Node keys, read by the functions with which Flower's SuperNode and its registration read them."""

import shutil
import subprocess
from argparse import Namespace

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from flwr.cli.supernode.register import try_load_public_key
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message, verify_signature
from flwr.supernode.cli.flower_supernode import _try_setup_client_authentication

from fedtune.deployment.node_keys import new_node_key, public_key_pem


def test_flower_reads_both_halves(tmp_path):
    private, public = new_node_key("node-07")
    (tmp_path / "node.key").write_bytes(private)
    (tmp_path / "node.pub").write_text(public + "\n")
    arguments = Namespace(
        auth_supernode_private_key=str(tmp_path / "node.key"), auth_supernode_public_key=None
    )
    held, shown = _try_setup_client_authentication(arguments)
    assert isinstance(held.curve, ec.SECP384R1)
    registered = try_load_public_key(tmp_path / "node.pub")
    # One form for all: what the node shows, what is registered, and what a folder lists.
    assert public_key_to_bytes(shown) == registered == public_key_pem(public)
    assert verify_signature(shown, b"now", sign_message(held, b"now"))
    assert public.endswith(" node-07")


def test_keys_differ_and_comments_mean_nothing():
    lines = [new_node_key("node")[1] for _ in range(20)]
    assert len({public_key_pem(line) for line in lines}) == 20
    kind, body, _ = lines[0].split()
    assert public_key_pem(f"{kind} {body} another owner") == public_key_pem(lines[0])


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="no ssh-keygen")
def test_a_key_that_an_owner_makes_will_do(tmp_path):
    command = [
        "ssh-keygen",
        "-q",
        "-t",
        "ecdsa",
        "-b",
        "384",
        "-N",
        "",
        "-f",
        tmp_path / "node.key",
    ]
    subprocess.run(command, check=True)
    line = (tmp_path / "node.key.pub").read_text()
    assert public_key_pem(line.strip()) == try_load_public_key(tmp_path / "node.key.pub")


def openssh(key):
    encoding, form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(encoding, form).decode()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ecdsa-sha2-nistp384 AAAA",
        "no key at all",
        openssh(ed25519.Ed25519PrivateKey.generate()),
        openssh(rsa.generate_private_key(65537, 2048)),
        new_node_key("node")[0].decode(),  # a private one, pasted by mistake
    ],
    ids=["empty", "too short", "no key", "ed25519", "rsa", "private"],
)
def test_what_is_no_key_on_a_nist_curve(line):
    with pytest.raises(ValueError, match=r"needs a public key on a NIST curve.*; make one with"):
        public_key_pem(line)

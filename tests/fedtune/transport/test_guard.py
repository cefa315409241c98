"""A node runs one bundle, and of that the installed apps alone."""

import subprocess
import sys
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import pytest

from fedtune.transport.flower.bundle import make_bundle
from fedtune.transport.flower.guard import (
    BundleRefusedError,
    check_bundle,
    error_of_ours,
    write_wrappers,
)


def test_the_bundle_is_the_same_bytes_whenever_it_is_made():
    first = make_bundle()
    time.sleep(2.1)  # a zip holds times to two seconds
    assert make_bundle() == first
    assert len(first.content) < 8192


def test_the_bundle_holds_no_code():
    from io import BytesIO
    from zipfile import ZipFile

    with ZipFile(BytesIO(make_bundle().content)) as archive:
        names = archive.namelist()
        text = archive.read("pyproject.toml").decode()
    assert not [name for name in names if name.endswith(".py")]
    assert '"fedtune.runs.network:server"' in text
    assert '"fedtune.runs.network:clients"' in text
    assert version("fedtune") in text


def test_it_is_what_flwr_run_makes_of_the_repository():
    from flwr.cli.build import build_fab_from_disk

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        built = build_fab_from_disk(Path(__file__).parents[3])
    assert built == make_bundle().content


def test_any_other_bundle_is_refused_by_both_hashes():
    bundle = make_bundle()
    check_bundle(bundle.content, bundle.hash_str)
    with pytest.raises(BundleRefusedError, match=bundle.hash_str[:12]):
        check_bundle(bundle.content + b"\0", bundle.hash_str)


def test_flower_sends_none_of_an_exceptions_text():
    said = error_of_ours(2, "<class 'OSError'>:<'/home/me/run/flwr: no space'>")
    assert (said.code, said.reason) == (2, "failed: the reason is in this node's log")
    refused = error_of_ours(2, f"<class '{BundleRefusedError.__name__}'>:<'abc'>")
    assert refused.reason.startswith("other-bundle: ")


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("flwr-clientapp", "--runtime-api-address"),
        ("flwr-serverapp", "--runtime-api-address"),
        ("flower-supernode", "--auth-supernode-private-key"),
    ],
)
def test_the_commands_are_flowers_own_but_for_the_bundle(tmp_path, name, option):
    write_wrappers(tmp_path)
    done = subprocess.run(
        [tmp_path / name, "--help"],
        env={"FEDTUNE_BUNDLE": "0" * 64, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert option in done.stdout


def test_without_a_pin_nothing_runs(tmp_path):
    write_wrappers(tmp_path)
    done = subprocess.run(
        [tmp_path / "flwr-clientapp"],
        env={"PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "FEDTUNE_BUNDLE" in done.stderr


def test_the_process_of_one_message_loads_neither_torch_nor_a_database():
    code = """
import sys
from fedtune.transport.flower import guard
sys.argv = ["flwr-clientapp", "--help"]
try:
    guard.run_client()
except SystemExit:
    pass
__import__(guard.NODE_APP)
heavy = {"torch", "transformers", "sqlalchemy", "alembic"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"FEDTUNE_BUNDLE": "0" * 64, "PATH": "", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["flwr-agentapp", "flwr-model", "flwr-connector"])
def test_no_other_app_of_flowers_is_found(tmp_path, name):
    write_wrappers(tmp_path)
    done = subprocess.run([tmp_path / name, "--help"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == f"fedtune runs its own two apps, and no {name}\n"


# Flower's own launcher starts `flwr-agentapp` for a message of a run that the SuperLink calls an
# agent's, and that installs the bundle and imports it. Ours starts one command.
LAUNCH = """
import subprocess, sys
from fedtune.transport.flower import guard
from flwr.supercore import cli
from flwr.supercore.constant import TaskType
from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
from flwr.supercore.superexec.executor.types import ExecutionSpec

started = []
subprocess.Popen = lambda command, env=None, **_: started.append((command, env))

def every_kind():
    for kind in TaskType:
        spec = ExecutionSpec(kind, "127.0.0.1:1", "secret-token", True, None, False, 1, False, 7)
        print(kind.value, SubprocessExecutor().launch(spec).status.value)

cli.flower_superexec = every_kind
guard.run_launcher()
((command, env),) = started
assert command[0] == "flwr-clientapp", command
assert "secret-token" not in " ".join(command), command
assert env[guard.TOKEN] == "secret-token"
"""


def test_a_nodes_launcher_starts_fedtunes_app_alone_and_shows_no_token():
    done = subprocess.run([sys.executable, "-c", LAUNCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = dict(line.split() for line in done.stdout.splitlines())
    assert said.pop("flwr-clientapp") == "accepted"
    assert set(said.values()) == {"failed"}
    assert "flwr-agentapp" in said

"""What the command line says of itself, how light it is, and that it keeps off the network."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from fedtune.cli import app


def invoke(*args):
    return CliRunner().invoke(app, list(args), env={"COLUMNS": "200"})


def test_help_imports_nothing_heavy():
    code = "import sys, fedtune.cli; print({'torch', 'flwr', 'transformers'} & set(sys.modules))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "set()"


def test_help_names_every_command():
    shown = invoke("--help").output
    for command in ("run", "check", "list", "evaluate", "merge", "nano"):
        assert command in shown


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("run", "A YAML file"),
        ("check", "Laid over the recipe"),
        ("bench", "the name of a shipped bench"),
        ("report", "The folder of a run"),
        ("list", "Default: everything"),
        ("merge", "A folder to create"),
    ],
)
def test_help_says_what_each_argument_is(command, told):
    """A click that typer does not know drops the help of arguments, and of nothing else."""
    assert told in invoke(command, "--help").output


OFFLINE = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit("the network was asked for: %r" % (args,))
socket.getaddrinfo = refuse
connect = socket.socket.connect
def only_here(self, address):
    return connect(self, address) if self.family == socket.AF_UNIX else refuse(address)
socket.socket.connect = only_here
sys.argv = ["fedtune", *sys.argv[1:]]
from fedtune.cli import main
main()
"""


@pytest.mark.parametrize(
    "words",
    [
        ["list"],
        pytest.param(["check", "quickstart"], marks=pytest.mark.slow),
        pytest.param(  # refused, after all that reads it is imported
            ["bench", "bench_smoke", "seeds=[0, 0]"], marks=pytest.mark.slow
        ),
        ["bench", "bench_smoke", "set.lora.target_modules=[qq_proj]"],  # vetting reads model, data
    ],
)
def test_these_commands_never_ask_for_the_network(words, tmp_path):
    env = {key: value for key, value in os.environ.items() if "OFFLINE" not in key}
    shown = subprocess.run(
        [sys.executable, "-c", OFFLINE, *words], env=env, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    told = shown.stdout + shown.stderr
    assert "the network was asked for" not in told
    assert "Traceback" not in told
    assert shown.returncode == (2 if words[0] == "bench" else 0), told

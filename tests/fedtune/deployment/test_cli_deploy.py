"""`fedtune deploy` as a user meets it."""

from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from fedtune.cli import app
from fedtune.deployment.folder import DeploymentFolder


def invoke(*args):
    result = CliRunner().invoke(app, ["deploy", *map(str, args)], env={"COLUMNS": "200"})
    assert "Traceback" not in result.output
    return result


def test_help_teaches_by_example():
    assert "fedtune deploy init fed --nodes 3" in invoke("--help").output
    shown = invoke("init", "--help").output
    assert "fedtune deploy init fed --nodes 20 --host federation.example.org --port 443" in shown
    for told in ("A folder to create", "that the nodes dial", "How many nodes may join"):
        assert told in shown


def test_init_says_what_to_start_where(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("init", "fed", "--nodes", 3, "--host", "Fed.example.org", "--port", 443)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines() == [
        "fed: 3 nodes, the SuperLink at fed.example.org:443",
        "  here:          fed/server/start.sh",
        "  on each node:  fed/nodes/node-00/start.sh, and so on",
        "  read first:    fed/README.md",
    ]
    folder = DeploymentFolder.open(tmp_path / "fed")
    assert (folder.host, folder.port, len(folder.names)) == ("fed.example.org", 443, 3)


def test_the_default_is_a_rehearsal(tmp_path):
    assert invoke("init", tmp_path / "fed", "--nodes", 1).exit_code == 0
    assert DeploymentFolder.open(tmp_path / "fed").address == "127.0.0.1:9443"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--nodes", 0], "error --nodes needs 1 to 1000: got 0"),
        (["--nodes", 10_000], "error --nodes needs 1 to 1000: got 10000"),
        (["--nodes", 3, "--port", 70_000], "error --port needs 1 to 65535: got 70000"),
        (
            ["--nodes", 3, "--host", "http://x"],
            "error --host needs an IP address or a DNS name: got",
        ),
        (["--nodes", 3, "--days", 9999], "error --days needs 1 to 3650: got 9999"),
        (["--nodes", "three"], "Invalid value for '--nodes'"),
        ([], "Missing option '--nodes'"),
    ],
)
def test_wrong_words_make_nothing(tmp_path, options, told):
    result = invoke("init", tmp_path / "fed", *options)
    assert result.exit_code == 2
    assert told in result.output
    assert not any(tmp_path.iterdir())


def test_what_is_there_is_named_and_stays(tmp_path):
    (tmp_path / "mine").write_text("mine")
    result = invoke("init", tmp_path, "--nodes", 2)
    assert result.exit_code == 2
    assert "needs to be new, or an empty folder: it holds something; name another" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_renew(tmp_path):
    folder = DeploymentFolder.create(tmp_path / "fed", 1, "127.0.0.1", 9443, days=1)
    result = invoke("renew", folder.path, "--days", 100)
    assert result.exit_code == 0
    later = DeploymentFolder.open(folder.path).expires
    assert later > datetime.now(UTC) + timedelta(days=99)
    assert f"valid until {later:%Y-%m-%d}; start the SuperLink again to show it" in result.output
    told = invoke("renew", tmp_path)
    assert told.exit_code == 2
    assert "holds no deployment" in told.output


def test_register_without_a_superlink_is_told(tmp_path):
    invoke("init", tmp_path / "fed", "--nodes", 1, "--port", 1)  # no one listens there
    result = invoke("register", tmp_path / "fed", "--patience", 0.1)
    assert result.exit_code == 2
    assert "needs the SuperLink of" in result.output
    assert "server/start.sh" in result.output

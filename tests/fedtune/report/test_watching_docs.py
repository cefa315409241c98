"""What docs/watching.md shows is what the commands do."""

import json
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from made_up_run import make_run
from typer.testing import CliRunner

from fedtune.cli import app

PAGE = (Path(__file__).parents[3] / "docs" / "watching.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(fedtune .*)$", PAGE, flags=re.MULTILINE)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path / "runs" / "quickstart")


def test_every_command_of_status_runs(here):
    shown = [line for line in COMMANDS if line.startswith("fedtune status")]
    assert len(shown) == 3
    for line in shown:
        result = CliRunner().invoke(app, shlex.split(line, comments=True)[1:])
        assert result.exit_code == 1, result.output
        assert "stopped" in result.output
        with here.locked():
            assert CliRunner().invoke(app, shlex.split(line, comments=True)[1:]).exit_code == 0


def test_every_key_that_is_named_is_there(here):
    result = CliRunner().invoke(app, ["status", "--json"])
    found = json.loads(result.stdout)
    section = PAGE.partition("## The JSON")[2].partition("## ")[0]
    named = set(re.findall(r"`(\w+)`", section))
    values = {"running", "finished", "stopped", "unknown", "stages", "run"}
    assert named - values <= set(found)
    assert {"state", "say", "why", "next", "round", "eval", "losses"} <= named


def test_the_command_of_the_page_serves_it_where_it_says(here):
    (line,) = [line for line in COMMANDS if line.startswith("fedtune dash")]
    (url,) = set(re.findall(r"http://127\.0\.0\.1:\d+/", line))
    words = shlex.split(line, comments=True)[1:]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "fedtune.cli", *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        said = process.stdout.readline().strip()
        try:
            if "needs a free port" in said:
                pytest.skip("another process has the port of the page")
            assert said == url
            with urllib.request.urlopen(url, timeout=30) as answer:
                assert "quickstart" in answer.read().decode()
        finally:
            process.kill()

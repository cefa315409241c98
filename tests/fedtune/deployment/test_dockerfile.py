"""The Dockerfile of a deployment, read as Docker reads it; it is not built here.

Not proven here: that the image can be built, which needs Docker and a package index. Where a Docker
daemon is at hand, `docker build --check` reads it too.
"""

import json
import re
import shutil
import subprocess

import pytest

KNOWN = {"FROM", "ARG", "COPY", "RUN", "ENV", "USER", "CMD"}


@pytest.fixture(scope="module")
def image(three_nodes):
    return three_nodes.path / "image"


@pytest.fixture(scope="module")
def instructions(image):
    """(word, the rest) of each instruction, lines joined as Docker joins them."""
    lines = [
        line
        for line in (image / "Dockerfile").read_text().splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [tuple(line.split(maxsplit=1)) for line in joined.splitlines()]


def all_of(instructions, word):
    return [rest for each, rest in instructions if each == word]


def test_each_instruction_is_one_that_docker_knows(instructions):
    assert {word for word, _ in instructions} <= KNOWN
    assert instructions[0][0] == "FROM"
    (base,) = all_of(instructions, "FROM")
    assert re.fullmatch(r"python:3\.\d+-slim", base), "an image of its own, with a tag"
    (command,) = all_of(instructions, "CMD")
    assert json.loads(command) == ["fedtune", "--help"]
    assert all(re.fullmatch(r"\w+=\S+", each) for each in all_of(instructions, "ENV")[0].split())


def test_the_shell_reads_what_it_runs(instructions):
    for script in all_of(instructions, "RUN"):
        found = subprocess.run(["sh", "-n", "-c", script], capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        assert script.count("pip install") == script.count("--no-cache-dir")
        used = set(re.findall(r"\$(\w+)", script))
        declared = {each.partition("=")[0] for each in all_of(instructions, "ARG")}
        assert used <= declared


def test_it_runs_as_no_one_in_particular_and_copies_no_key(instructions, image):
    assert all_of(instructions, "USER") == ["1000:1000"]
    (copied,) = all_of(instructions, "COPY")
    assert copied == "constraints.txt fedtune-*.whl /opt/fedtune/"
    assert [path.name for path in image.iterdir()] == ["Dockerfile"], "no key is in the context"


def test_the_constraints_it_is_told_to_copy_name_torch(instructions):
    from pathlib import Path

    constraints = (Path(__file__).parents[3] / "constraints.txt").read_text()
    assert len(re.findall(r"^torch==\S+$", constraints, flags=re.MULTILINE)) == 1


def daemon():
    docker = shutil.which("docker")
    return docker and subprocess.run([docker, "info"], capture_output=True).returncode == 0


@pytest.mark.network
def test_docker_itself_finds_nothing_wrong(image):
    if not daemon():
        pytest.skip("no Docker daemon")
    command = ["docker", "build", "--check", str(image)]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr

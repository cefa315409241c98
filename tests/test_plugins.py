"""Rules and attacks of packages that are installed beside fedtune."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aggregators
import attacks

PAGE = (Path(__file__).parents[1] / "docs" / "adding.md").read_text(encoding="utf-8")
PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "of-mine"
version = "1.0"
[tool.setuptools]
py-modules = ["closest", "half_hearted", "short_sums"]
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package of docs/adding.md, installed by pip into a folder of its own."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    attack, rule, reward, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (points,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (source / "half_hearted.py").write_text(attack)
    (source / "closest.py").write_text(rule)
    (source / "short_sums.py").write_text(reward)
    (source / "pyproject.toml").write_text(PROJECT + points)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--target", target, source],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    return target


def python(code, *paths):
    """Run it in a process that has these folders on its path, as well as this tree."""
    tree = Path(__file__).parents[1]
    lines = [f"import sys; sys.path[:0] = {[str(path) for path in (tree, *paths)]}", code]
    ran = subprocess.run(
        [sys.executable, "-W", "always", "-c", "\n".join(lines)],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    return ran.stdout.strip(), ran.stderr


def test_an_installed_package_is_known_without_a_line_of_code(installed):
    said, errors = python(
        "import torch, aggregators, attacks\n"
        "rows = torch.tensor([[0.0], [1.0], [2.0], [9.0]])\n"
        "print(aggregators.aggregate(rows, 'closest', f=1).tolist(),"
        " attacks.find('half_hearted').goal)",
        installed,
    )
    assert said == "[1.0] shirk", errors  # as in test_readme: 9 goes
    assert "left out" not in errors


def test_a_package_that_is_imported_first_is_registered_once(installed):
    said, errors = python(
        "import closest, half_hearted, aggregators, attacks\n"
        "print(aggregators.AGGREGATORS['closest'] is closest.RULE,"
        " attacks.ATTACKS['half_hearted'] is half_hearted.ATTACK)",
        installed,
    )
    assert said == "True True", errors
    assert "left out" not in errors


def test_a_package_that_does_not_load_is_left_out_by_name(tmp_path):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (tmp_path / "broken.py").write_text("RULE = 3\n")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    points = ["[fedtune.aggregators]", "mean2 = broken:RULE", "[fedtune.attacks]", "x = gone:X"]
    (info / "entry_points.txt").write_text("\n".join(points))
    said, errors = python(
        "import aggregators, attacks; print(len(aggregators.AGGREGATORS))", tmp_path
    )
    assert int(said) >= 23
    assert "mean2 of broken is left out: it needs an aggregators.Rule; got int" in errors
    assert "x of broken is left out: No module named 'gone'" in errors


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match=r"krum needs a name that is free: another rule has it"):
        aggregators.register(
            aggregators.Rule(
                name="krum", summary="", source="", condition="", min_clients=lambda f: 1,
                kind="gram", function=print,
            )
        )  # fmt: skip
    taken = attacks.Attack(
        name="zero", summary="", source="", level="update", goal="harm", knowledge=("own",),
        function=print,
    )  # fmt: skip
    with pytest.raises(ValueError, match="zero needs a name that is free: another attack has it"):
        attacks.register(taken)
    assert aggregators.register(aggregators.AGGREGATORS["krum"]).name == "krum"
    assert attacks.register(attacks.ATTACKS["zero"]).name == "zero"

"""Two processes in one folder would cut each other's records: the second is turned away.

Not proven here: file systems without locks, and Windows, where nothing is locked.
"""

import subprocess
import sys

import pytest

from fedtune.records.folder import RunFolder
from fedtune.runs.engines import execute

pytest.importorskip("fcntl")

HOLD = """
import sys
from pathlib import Path
from fedtune.records.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder_and_recipe(tiny_recipe):
    return RunFolder.create(tiny_recipe(federation={"num_rounds": 1}))


@pytest.fixture
def other(folder_and_recipe):
    """A process that holds the folder until its input ends, or until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder_and_recipe[0].path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.kill()


def test_a_second_process_is_turned_away_and_a_dead_one_is_not_in_the_way(folder_and_recipe, other):
    folder, recipe = folder_and_recipe
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match=r"another process is running in .*run; wait until it"):
        execute(recipe, folder)
    assert sorted(path.name for path in folder.path.iterdir()) == [".lock", "recipe.yaml"]
    other.kill()
    other.wait()
    assert (folder.path / ".lock").exists()  # a killed process clears nothing away
    execute(recipe, folder)
    assert folder.adapter.is_dir()
    assert not (folder.path / ".lock").exists()


def test_the_lock_goes_with_an_error(tmp_path):
    folder = RunFolder(tmp_path)
    with pytest.raises(RuntimeError, match="stop"), folder.locked():
        raise RuntimeError("stop")
    with folder.locked(), pytest.raises(ValueError, match="another process"), folder.locked():
        pass
    assert list(tmp_path.iterdir()) == []

"""Who looks at a stranger's run folder is not held up, filled up, or made to write elsewhere.

Not proven here: `fedtune run --resume` in such a folder, which does what the recipe in it says.
"""

import os
import tracemalloc
from contextlib import suppress

import pytest
from made_up_run import make_run

from fedtune.cli.status import find_folder
from fedtune.durable import read_whole, write_beside
from fedtune.report.pages.writing import write_page
from fedtune.report.status_stages import watch_folder


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


def huge(path):
    path.touch()
    os.truncate(path, 2**40)


NAMES = ["recipe.yaml", "manifest.json", "metrics.jsonl", "events.jsonl", "samples.jsonl"]
NAMES += [
    "progress.jsonl",
    "clients.json",
    ".lock",
    "stages.json",
    "report.html",
    ".report.html.tmp",
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("make", [pipe, endless, huge])
@pytest.mark.parametrize("name", NAMES)
def test_odd_files_hold_nobody_up_and_fill_no_memory(tmp_path, name, make):
    looks = (lambda folder: watch_folder(find_folder(folder)).look(), write_page)
    for number, look in enumerate(looks):
        folder = tmp_path / f"run-{number}"
        make_run(folder)
        (folder / name).unlink(missing_ok=True)
        make(folder / name)
        tracemalloc.start()
        with suppress(ValueError, OSError):  # it may well be refused
            look(folder)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2e8


def test_a_report_writes_through_no_link(tmp_path):
    folder, mine = tmp_path / "run", tmp_path / "mine"
    make_run(folder)
    for name in (".report.html.tmp", "report.html"):
        mine.write_text("as it was")
        (folder / name).symlink_to(mine)
        write_page(folder)
        assert mine.read_text() == "as it was"
        assert not (folder / "report.html").is_symlink()
        (folder / "report.html").unlink()


def test_a_file_is_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a"
    path.write_text("äb")
    assert read_whole(path, most=3) == "äb"
    with pytest.raises(ValueError, match="needs at most 2 bytes; got 3"):
        read_whole(path, most=2)
    with pytest.raises(FileNotFoundError, match="needs to be a file"):
        read_whole(tmp_path)
    assert write_beside(path, "c").read_text() == "c"
    assert path.read_text() == "äb"

"""Break the code in twenty known ways, and see that the fast tier notices each.

`make mutants` copies the tree that git tracks, breaks one line, runs the tests of that part until
the first failure, and mends the line again. A breakage counts as caught only where a test fails;
an error of collection does not count.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from breakages import BREAKAGES, Breakage

TREE = Path(__file__).parents[2]
LEAST = 18
TESTS_FAILED = 1  # of pytest's exit statuses


def main() -> int:
    """Return 0 if at least `LEAST` breakages, of all of them, are caught."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*", help="only breakages whose name holds one of these")
    words = parser.parse_args().words
    wanted = [b for b in BREAKAGES if not words or any(word in b.name for word in words)]
    missed = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy = Path(folder)
        for name in _tracked():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(TREE / name, copy / name)
        for breakage in wanted:
            started = time.monotonic()
            caught = _is_caught(breakage, copy)
            missed += [] if caught else [breakage.name]
            word = "caught" if caught else "MISSED"
            print(f"{word}  {breakage.name}  ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(wanted) - len(missed)} of {len(wanted)} breakages caught by the fast tier")
    return 1 if len(missed) > len(BREAKAGES) - LEAST else 0


def _is_caught(breakage: Breakage, copy: Path) -> bool:
    file = copy / breakage.file
    text = file.read_text(encoding="utf-8")
    if text.count(breakage.before) != 1:
        raise SystemExit(f"{breakage.file} needs {breakage.before!r} once: mend the list")
    file.write_text(text.replace(breakage.before, breakage.after), encoding="utf-8")
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *breakage.tests],
            cwd=copy, env=os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True,
        )  # fmt: skip
    finally:
        file.write_text(text, encoding="utf-8")
    if ran.returncode not in (0, TESTS_FAILED):
        raise SystemExit(f"{breakage.name}: the tests did not run:\n{ran.stdout[-2000:]}")
    return ran.returncode == TESTS_FAILED


def _tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=TREE, capture_output=True, text=True)
    return [name for name in listed.stdout.splitlines() if (TREE / name).is_file()]


if __name__ == "__main__":
    sys.exit(main())

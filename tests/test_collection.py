"""Collecting the tests is quick: no test module brings the training stack along.

Not proven here: how many seconds it takes.
"""

import subprocess
import sys
from pathlib import Path

COLLECT = """
import sys
import pytest
assert pytest.main(["--collect-only", "-qq", "-p", "no:cacheprovider"]) == 0
print("brought along:", sorted({"trl", "transformers", "peft", "datasets"} & set(sys.modules)))
"""


def test_collection_imports_none_of_the_training_stack():
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", COLLECT], cwd=root, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["brought along: []"], done.stdout[-1000:] + done.stderr

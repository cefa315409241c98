"""The made-up run that the tests of the reports use too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "fedtune" / "report"))

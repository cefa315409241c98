"""Import this first: the script's folder leads the path, and its aggregators.py is no package."""

import sys
from pathlib import Path

_here = Path(__file__).parent
sys.path = [*(entry for entry in sys.path if Path(entry).resolve() != _here), str(_here)]

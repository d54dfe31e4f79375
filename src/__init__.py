"""Makes the package `ditq` of this checkout importable, so that `python -m src.<step>` needs no installation."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

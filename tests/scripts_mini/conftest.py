"""Makes the parts of `scripts/train_mini.py` importable as `mini`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

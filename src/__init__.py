"""Makes the package `ditq` of this checkout importable, so that `python -m src.<step>` needs no installation."""

import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

# Ctrl-C ends a step that is still importing without a traceback; `ditq.cli.run` hears it from then on.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

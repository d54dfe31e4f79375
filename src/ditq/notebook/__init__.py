"""ditq in a notebook or script: the functions that `import ditq` offers.

Everything here is made of what the commands are made of, and shows the same progress bars.
"""

from ditq.notebook.calibration import CalibrationData, calibrate
from ditq.notebook.comparison import Comparison, compare
from ditq.notebook.model import Model, load
from ditq.notebook.pictures import Pictures
from ditq.notebook.quantized import QuantizedModel, open_checkpoint, quantize

__all__ = [
    "CalibrationData",
    "Comparison",
    "Model",
    "Pictures",
    "QuantizedModel",
    "calibrate",
    "compare",
    "load",
    "open_checkpoint",
    "quantize",
]

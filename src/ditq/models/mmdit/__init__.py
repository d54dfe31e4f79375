"""The SD3 family: its transformer, the shapes of its models, the layouts of its checkpoints."""

from ditq.models.mmdit.config import SD3_MEDIUM, SD35_LARGE, SD35_MEDIUM, MMDiTConfig
from ditq.models.mmdit.model import MMDiT

__all__ = ["SD3_MEDIUM", "SD35_LARGE", "SD35_MEDIUM", "MMDiT", "MMDiTConfig"]

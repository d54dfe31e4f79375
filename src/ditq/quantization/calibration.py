"""What a run knows of the model's data: recorded pictures, what blocks received and returned, activation grids."""

from dataclasses import dataclass

from ditq.activations import ActivationTable
from ditq.calibration import BlockCache, ImageSet


@dataclass(frozen=True)
class Calibration:
    """What a run knows of the model's data."""

    images: ImageSet | None
    """Recorded pictures, for the layers before the blocks; None where these stay float."""
    cache: BlockCache
    """The blocks' inputs and outputs at some of their steps."""
    table: ActivationTable | None = None
    """Grids and smoothing factors of the activations; None: activations stay as they are."""
    table_digest: str = ""
    """Stands for the table in the plan."""

    @property
    def prompts(self) -> list[str]:
        """The prompts of the recorded pictures, or of the cache where there are none; each once."""
        found = (
            self.cache.meta.get("prompts", {}).values()
            if self.images is None
            else self.images.manifest["prompts"]
        )
        return list(dict.fromkeys(found))

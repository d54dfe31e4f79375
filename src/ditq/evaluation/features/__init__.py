"""Features of pictures: a row of numbers for each, from a network that looks at them."""

from ditq.evaluation.features.base import Extracted, FeatureNetwork
from ditq.evaluation.features.networks import OwnFeatures
from ditq.evaluation.features.sources import Batch, drawn_batches, folder_batches, pictures_in
from ditq.evaluation.features.stored import extract

__all__ = [
    "Batch",
    "Extracted",
    "FeatureNetwork",
    "OwnFeatures",
    "drawn_batches",
    "extract",
    "folder_batches",
    "pictures_in",
]

"""Calibration data: what really flows through a model along its denoising trajectories."""

from ditq.calibration import defaults
from ditq.calibration.block_cache import BlockCache, read_block_cache
from ditq.calibration.block_caching import CacheRecipe, cache_blocks, cache_quantized
from ditq.calibration.image_set import (
    ImageSet,
    check_model,
    check_network,
    read_images,
    replay,
    replay_inputs,
)
from ditq.calibration.images import CONTENTS, ImageRecipe, collect_images
from ditq.calibration.manifest import read_manifest
from ditq.calibration.point_collection import PointRecipe, collect_points, parts_of
from ditq.calibration.points import PointSet, read_points
from ditq.calibration.prompt_choice import first_of_prompt
from ditq.calibration.prompts import default_prompts, prompt_lines
from ditq.calibration.trajectories import Trajectories, record, selected_steps

__all__ = [
    "CONTENTS",
    "BlockCache",
    "CacheRecipe",
    "ImageRecipe",
    "ImageSet",
    "PointRecipe",
    "PointSet",
    "Trajectories",
    "cache_blocks",
    "cache_quantized",
    "check_model",
    "check_network",
    "collect_images",
    "collect_points",
    "default_prompts",
    "defaults",
    "first_of_prompt",
    "parts_of",
    "prompt_lines",
    "read_block_cache",
    "read_images",
    "read_manifest",
    "read_points",
    "record",
    "replay",
    "replay_inputs",
    "selected_steps",
]

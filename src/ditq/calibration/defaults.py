"""The calibration recipe of TaQ-DiT (arXiv 2411.14172), as Phase 1 follows it."""

NUM_FID_SAMPLES = 256
"""Trajectories; the paper's scripts call them FID samples."""
NUM_SAMPLING_STEPS = 100
NUM_SELECTED_STEPS = 25
CFG_SCALE = 1.5
LATENT_SIZE = 32
"""Side of the latents in cells: 256 pixels for SD3."""
SEED = 0
MODEL = "mini"

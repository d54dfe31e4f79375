"""Parts of `scripts/train_mini.py`: data set, latents, networks, training loops, export and quality gate."""

"""The folder of the weight track: npz files of blocks, and a config.json when all are there."""

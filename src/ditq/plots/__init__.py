"""Plots: data in, Figure out; saving is the caller's, through `core.files`."""

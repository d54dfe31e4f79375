"""The checkpoint folder in MLX's convention."""

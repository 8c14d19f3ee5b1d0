"""The training loop, its checkpoints, hooks and numerical precision."""

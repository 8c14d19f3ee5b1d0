"""Weights files: reading them safely, loading them completely, writing and publishing them."""

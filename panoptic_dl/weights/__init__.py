"""Weights files: reading them safely and loading them completely."""

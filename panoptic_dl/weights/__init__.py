"""Weights files: reading them safely, converting names, loading, writing."""

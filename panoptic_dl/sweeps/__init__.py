"""Sweeps: rows that go on where they were, that fail alone, and how they stand."""

"""Checks of a row: its parts, its numbers, its weights, and what it takes to train it."""

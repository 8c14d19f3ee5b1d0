"""Datasets: where their files lie, what their classes are, how they are prepared and drawn."""

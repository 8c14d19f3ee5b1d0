"""Drawings: segmentations, sheets of images, charts, error maps."""

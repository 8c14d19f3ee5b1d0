"""Readers of the files of annotation tools and datasets: one module a format."""

"""Checks of datasets: their JSON files, and every image and label."""

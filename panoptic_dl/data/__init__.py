"""Datasets: catalogs of the official ones, toy ones made on first use, mappers and loaders."""

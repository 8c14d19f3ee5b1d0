"""Readers of what datasets and annotation tools write, one file a format."""

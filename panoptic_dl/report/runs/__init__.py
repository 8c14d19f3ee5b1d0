"""Runs as their folders tell of them: found, read, and grouped over seeds."""

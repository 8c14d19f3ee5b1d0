"""Metrics: streaming evaluators, and the official scripts that they are held against."""

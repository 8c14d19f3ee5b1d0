"""Loggers: CSV, TensorBoard and Weights & Biases behind one interface.

How to add one: docs/explanation/architecture.md.
"""

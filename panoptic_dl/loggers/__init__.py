"""Loggers: CSV, TensorBoard, Weights & Biases and MLflow behind one interface.

How to add one: docs/how-to/logging.md.
"""

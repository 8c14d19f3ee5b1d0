"""Loggers: CSV, TensorBoard and Weights & Biases behind one interface."""

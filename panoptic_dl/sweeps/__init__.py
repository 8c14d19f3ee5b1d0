"""Sweeps and searches: tables of experiments, their status, Optuna."""

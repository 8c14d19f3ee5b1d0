"""Processes of a run: GPUs, machines, signals, exit codes."""

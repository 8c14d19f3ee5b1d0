"""Checks of the machine: programs, devices, memory and disk."""

"""What scripts/prepare_*.py share: the official archives, and the command line."""

"""`mode=doctor`: checks of the machine, the dataset, the weights and the config before a run."""

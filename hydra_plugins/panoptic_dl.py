"""Our plug-ins where Hydra looks for them: it starts sweepers of this package only."""

from panoptic_dl.sweeps.optuna_sweeper import Search


class OptunaSweeper(Search):
    """`hydra/sweeper=optuna`."""

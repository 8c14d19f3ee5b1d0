"""Our plug-ins where Hydra looks for them: it starts sweepers and launchers of here only."""

from typing import Any

from hydra.plugins.sweeper import Sweeper

from panoptic_dl.sweeps import launchers


class ProcessLauncher(launchers.ProcessLauncher):
    """`hydra/launcher=local` and `joblib`."""


class SlurmLauncher(launchers.SlurmLauncher):
    """`hydra/launcher=slurm`."""


class OptunaSweeper(Sweeper):
    """`hydra/sweeper=optuna`: `panoptic_dl.sweeps.optuna_sweeper.Search`.

    That is imported when it is chosen: Optuna takes a second, and users may leave it out.
    """

    def __init__(self, **settings: Any) -> None:
        try:
            from panoptic_dl.sweeps.optuna_sweeper import Search
        except ModuleNotFoundError as error:
            if error.name != "optuna":
                raise
            raise SystemExit(
                "error: hydra/sweeper=optuna needs Optuna: pip install 'panoptic-dl[search]'"
            ) from None
        self._search = Search(**settings)

    def setup(self, **context: Any) -> None:
        self._search.setup(**context)

    def sweep(self, arguments: list[str]) -> None:
        self._search.sweep(arguments)

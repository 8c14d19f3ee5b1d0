"""The trials of a search, kept by Optuna in a journal from which the search goes on."""

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from .identity import differing_keys
from .search_space import SearchSpace

FILE = "journal.jsonl"  # one change a line, as JSON: no data base, no pickle
LOCK = ".search.lock"  # held by the search: trials under way are not unfinished ones
STATES = {"COMPLETE": "finished", "FAIL": "failed", "RUNNING": "unfinished"}


class Study:
    """A search in a folder, new or gone on with.

    Draws are seeded by the seed and the trial's number, so that a search that was stopped draws
    what it would have drawn (where trials are run one by one: else it depends on which of them
    end first).

    Args:
        folder: holds `journal.jsonl`; only this process works in it.
        space: what is searched.
        setting: what else the figures of trials depend on, as JSON has it. A search goes on only
            with the same space and setting.
        maximize: whether larger figures are better.
        sampler: `tpe` or `random`.
        startup: trials that are drawn at random before `tpe` looks at figures.
        seed: None: a random one.
        first: values by key of the first trial; keys that are missing are drawn.

    Raises:
        ValueError: the folder holds another search, or its journal is damaged.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        setting: Mapping[str, Any],
        *,
        maximize: bool,
        sampler: str,
        startup: int,
        seed: int | None,
        first: Mapping[str, Any],
    ) -> None:
        self.folder, self.space, self.maximize = folder, space, maximize
        self.sampler, self.startup, self.seed = sampler, startup, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = self._opened()
        earlier = self.study.user_attrs
        description = {
            "space": space.described(),
            "setting": {**setting, "direction": "maximize" if maximize else "minimize"},
        }
        if "setting" in earlier:
            self._refuse_another(earlier, description)
        else:  # new, or killed before its first trial
            if first and not self._trials():
                self.study.enqueue_trial(dict(first))
            self.study.set_user_attr("starts_with_own", set(first) == set(space.searched))
            self.study.set_user_attr("space", description["space"])
            self.study.set_user_attr("setting", description["setting"])

    def _opened(self) -> optuna.Study:
        file = self.folder / FILE
        _end_with_a_line(file)
        direction = StudyDirection.MAXIMIZE if self.maximize else StudyDirection.MINIMIZE
        try:
            backend = JournalFileBackend(str(file), _HeldAlready())  # type: ignore[arg-type]
            return optuna.create_study(
                storage=JournalStorage(backend),
                study_name="search",
                direction=direction,
                load_if_exists=True,
            )
        except OSError:
            raise
        except Exception as error:  # lines that are not Optuna's can raise anything
            raise ValueError(
                f"{file} is damaged ({type(error).__name__}: {error}): put back a copy of it, or "
                "name another folder: sweep_dir=FOLDER"
            ) from error

    def unfinished(self) -> list[int]:
        """Numbers of the trials that were begun and never told."""
        return [trial.number for trial in self._trials() if trial.state == TrialState.RUNNING]

    def begun(self) -> int:
        """How many trials there are, however they ended."""
        return sum(trial.state != TrialState.WAITING for trial in self._trials())

    def ask(self) -> int:
        """Begin a trial; return its number."""
        self.study.sampler = self._sampler(self.begun())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return self.study.ask(fixed_distributions=dict(self.space.searched)).number

    def values(self, number: int) -> dict[str, Any]:
        """The values of a trial by key; they are drawn now if it was killed before they were."""
        frozen = self._trials()[number]
        if set(frozen.params) != set(self.space.searched):
            self.study.sampler = self._sampler(number)
            trial = optuna.Trial(self.study, frozen._trial_id)
            for key, distribution in self.space.searched.items():
                trial._suggest(key, distribution)
            frozen = self._trials()[number]
        return self._ordered(frozen.params)

    def tell(self, number: int, outcome: float | str) -> None:
        """End a trial with its figure, or with why there is none."""
        if isinstance(outcome, str):
            self.study.set_user_attr(f"error of {number}", outcome)
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, outcome)

    def record(self) -> dict[str, Any]:
        """All there is to know about the search, for `search.json`."""
        notes = self.study.user_attrs
        begun = [trial for trial in self._trials() if trial.state != TrialState.WAITING]
        finished = [trial for trial in begun if trial.state == TrialState.COMPLETE]
        sign = 1 if self.maximize else -1
        best = max(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)
        return {
            "format": 1,
            "name": self.folder.absolute().name,
            "direction": "maximize" if self.maximize else "minimize",
            "sampler": self.sampler,
            "seed": self.seed,
            "starts_with_own": notes["starts_with_own"],
            "fixed": list(self.space.fixed),
            "space": self.space.limits(),
            "best": None if best is None else best.number,
            "importance": self._importance(finished),
            "trials": [
                {
                    "number": trial.number,
                    "folder": folder_name(trial.number),
                    "state": STATES[trial.state.name],
                    "value": trial.value if trial.state == TrialState.COMPLETE else None,
                    "values": self._ordered(trial.params),
                    "error": notes.get(f"error of {trial.number}"),
                }
                for trial in begun
            ],
        }

    def _ordered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as their keys were given."""
        return {key: values[key] for key in self.space.searched if key in values}

    def _importance(self, finished: list[FrozenTrial]) -> dict[str, float] | None:
        """Shares of the keys in the spread of figures (PED-ANOVA); None where that says nothing."""
        if len(self.space.searched) < 2 or len({trial.value for trial in finished}) < 4:
            return None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                shares = optuna.importance.get_param_importances(self.study)
        except (ValueError, RuntimeError):  # too few trials for this space
            return None
        return {key: share for key, share in shares.items() if math.isfinite(share)} or None

    def _sampler(self, number: int) -> BaseSampler:
        seed = None
        if self.seed is not None:
            seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1)[0])
        if self.sampler == "random":
            return RandomSampler(seed=seed)
        return TPESampler(seed=seed, n_startup_trials=self.startup)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _refuse_another(self, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for part in ("space", "setting"):
            for key in differing_keys(earlier[part], now[part])[:1]:
                was, wanted = _at(earlier[part], key), _at(now[part], key)
                raise ValueError(
                    f"{self.folder} holds another search: {key} was {was} there and is {wanted} "
                    "now. Give what was given then, or name another folder: sweep_dir=FOLDER"
                )


def _at(tree: Any, key: str) -> Any:
    """The value of a dotted key; the keys of a search space have dots themselves."""
    if key in tree:
        return tree[key]
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, Mapping) else None
    return "nothing" if tree is None else tree


def folder_name(number: int) -> str:
    """Of a trial, below the search's folder."""
    return f"trial_{number:03d}"


def _end_with_a_line(file: Path) -> None:
    """Cut off what a process had begun to write when it was killed."""
    if not file.exists():
        return
    with file.open("rb+") as journal:
        journal.truncate(journal.read().rfind(b"\n") + 1)


class _HeldAlready:
    """The journal's lock: nobody else writes, see `LOCK`.

    Optuna's own is a file that a killed process leaves behind.
    """

    def acquire(self) -> bool:
        return True

    def release(self) -> None:
        pass

"""The trials of a search, kept by Optuna in a journal from which the search goes on.

What a search draws from: overrides such as `optimizer.lr=tag(log,interval(1e-3,1e-1))`.
"""

import json
import math
import threading
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from panoptic_dl.config.run_identity import command, differing_keys, resolved_value
from panoptic_dl.core.files import write_text
from panoptic_dl.core.run_folder import write_sweep

JOURNAL = "journal.jsonl"  # one change a line, as JSON: no data base, no pickle
LOCK = ".search.lock"  # held by the search: trials under way are not unfinished ones
STATES = {"COMPLETE": "finished", "FAIL": "failed", "RUNNING": "unfinished"}


@dataclass(frozen=True)
class SearchSpace:
    """Overrides that all trials share, and the keys whose values are searched.

    Choices are kept as they are spelled on a command line: they may be lists or options of a group.
    """

    fixed: tuple[str, ...]  # as they stand on a command line
    searched: Mapping[str, Any]  # Optuna's distribution of each key

    @classmethod
    def parse(cls, overrides: Sequence[str], config_loader: Any = None) -> "SearchSpace":
        """Separate what is searched from what is fixed; the last one of a key counts.

        `key=a,b`, `key=range(1,9)`, `key=interval(0,1)`, `key=tag(log,interval(1,9))` are searched;
        `int(interval(1,9))` gives whole numbers. Hydra's loader is for `glob(...)`.

        Raises ValueError: nothing is searched, or an interval is impossible; names the key.
        """
        fixed: dict[str, str] = {}
        searched: dict[str, Any] = {}
        for override in OverridesParser.create(config_loader).parse_overrides(list(overrides)):
            key = override.get_key_element()
            fixed.pop(key, None)
            searched.pop(key, None)
            if not override.is_sweep_override():
                fixed[key] = str(override.input_line)
                continue
            try:
                searched[key] = _distribution(override)
            except (ValueError, TypeError, HydraException) as error:
                raise ValueError(f"{override.input_line}: {error}") from error
        if not searched:
            raise ValueError(
                "nothing to search: give at least one key several values, such as "
                "'optimizer.lr=tag(log,interval(1e-4,1e-2))' or head=conv,dsconv"
            )
        return cls(tuple(fixed.values()), searched)

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial; reading them gives back its values to the last bit."""
        return [*self.fixed, *(f"{key}={_text(value)}" for key, value in values.items())]

    def example(self) -> list[str]:
        """The overrides of one trial, to see whether a config with such keys can be composed."""
        first = {
            key: each.choices[0] if isinstance(each, CategoricalDistribution) else each.low
            for key, each in self.searched.items()
        }
        return self.overrides(first)

    def own_values(self, config: DictConfig) -> dict[str, Any]:
        """The values that a config has already, of those keys where the search may draw them.

        `config` has the fixed overrides and `hydra`. ValueError for fractions of a whole number.
        """
        choices = {**OmegaConf.select(config, "hydra.runtime.choices", default={})}
        found = {}
        for key, drawn_from in self.searched.items():
            name = key.lstrip("+")
            value = choices[name] if name in choices else resolved_value(config, name)
            if isinstance(drawn_from, FloatDistribution) and type(value) is int:
                low, high = f"{drawn_from.low:g}", f"{drawn_from.high:g}"
                raise ValueError(
                    f"{key} holds whole numbers, such as {value}: "
                    f"'{key}=int(interval({low},{high}))' searches those"
                )
            if isinstance(drawn_from, CategoricalDistribution):
                same = [each for each in drawn_from.choices if _is_spelled(str(each), value)]
                if same:
                    found[key] = same[0]
                continue
            kinds: Any = int if isinstance(drawn_from, IntDistribution) else (int, float)
            is_number = isinstance(value, kinds) and not isinstance(value, bool)
            if is_number and drawn_from._contains(value):
                found[key] = value
        return found


def _is_spelled(choice: str, value: Any) -> bool:
    """Whether Hydra's command line reads `choice`, such as `[64,64]` or `null`, as a value."""
    read = OverridesParser.create().parse_override(f"key={choice}").value()
    return choice == value or (read == value and isinstance(read, bool) == isinstance(value, bool))


def _text(value: Any) -> str:
    """A value as Hydra's command line reads it back; choices are spelled so already."""
    return repr(value) if isinstance(value, float) else str(value)


def _distribution(override: Override) -> BaseDistribution:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        return _numbers(value.start, value.end, log="log" in value.tags)
    if override.is_range_sweep() and not value.shuffle:
        steps: list[Any] = list(override.sweep_iterator())
        if len(steps) > 1:
            return _numbers(min(steps), max(steps), step=abs(value.step))
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ValueError("no values")
    return CategoricalDistribution(choices)


def _numbers(low: Any, high: Any, **options: Any) -> BaseDistribution:
    """Whole numbers where both limits are; those of an interval are floats but for `int(...)`."""
    whole = isinstance(low, int) and isinstance(high, int)
    return (IntDistribution if whole else FloatDistribution)(low, high, **options)


def _limits(drawn_from: Any) -> dict[str, Any]:
    """The `choices`, or `low`, `high` and whether draws are even over their `log`."""
    if isinstance(drawn_from, CategoricalDistribution):
        return {"choices": list(drawn_from.choices)}
    return {"low": drawn_from.low, "high": drawn_from.high, "log": drawn_from.log}


class Study:
    """A search in a folder, new or gone on with.

    Draws are seeded by the seed and the trial's number, so that a search that was stopped draws
    what it would have drawn (where trials are run one by one: else it depends on which of them
    end first).

    Args:
        folder: holds `journal.jsonl`; only this process works in it.
        config: what else the metrics of trials depend on. A search goes on only with the same
            space, config and direction.
        direction, sampler, startup, seed: see `optuna_sweeper.Search`.
        first: values by key of the first trial; keys that are missing are drawn.

    Raises ValueError: the folder holds another search, or its journal is damaged.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        config: Mapping[str, Any],
        *,
        direction: str,
        sampler: str,
        startup: int,
        seed: int | None,
        first: Mapping[str, Any],
    ) -> None:
        self.folder, self.space, self.direction = folder, space, direction
        self.sampler, self.startup, self.seed = sampler, startup, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = self._opened()
        earlier = self.study.user_attrs
        drawn_from = {key: distribution_to_json(d) for key, d in sorted(space.searched.items())}
        now = {"space": drawn_from, "setting": {**config, "direction": direction}}
        now = json.loads(json.dumps(now))  # as the journal gives it back
        if "setting" in earlier:
            self._refuse_another(earlier, now)
        else:  # new, or killed before its first trial
            if first and not self._trials():
                self.study.enqueue_trial(dict(first))
            self.study.set_user_attr("starts_with_own", set(first) == set(space.searched))
            for name, value in now.items():
                self.study.set_user_attr(name, value)

    def _opened(self) -> optuna.Study:
        file = self.folder / JOURNAL
        _cut_unfinished_line(file)
        try:
            # Optuna's own lock is a file that a killed process leaves behind; see LOCK.
            backend = JournalFileBackend(str(file), threading.Lock())  # type: ignore[arg-type]
            return optuna.create_study(
                storage=JournalStorage(backend),
                study_name="search",
                direction=StudyDirection[self.direction.upper()],
                load_if_exists=True,
            )
        except OSError:
            raise
        except Exception as error:  # lines that are not Optuna's can raise anything
            raise ValueError(
                f"{file} is damaged ({type(error).__name__}: {error}): put back a copy of it, or "
                "name another folder: sweep_dir=FOLDER"
            ) from error

    def _refuse_another(self, earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        for part in ("space", "setting"):
            for key in differing_keys(earlier[part], now[part])[:1]:
                was, wanted = _at(earlier[part], key), _at(now[part], key)
                raise ValueError(
                    f"{self.folder} holds another search: {key} was {was} there and is {wanted} "
                    "now. Give what was given then, or name another folder: sweep_dir=FOLDER"
                )

    def unfinished(self) -> list[int]:
        """Numbers of the trials that were begun and have no end."""
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

    def end(self, number: int, result: float | str) -> None:
        """End a trial with its metric, or with why there is none."""
        if isinstance(result, str):
            self.study.set_user_attr(f"error of {number}", result)
            self.study.tell(number, state=TrialState.FAIL)
        else:
            self.study.tell(number, result)

    def save(self) -> bool:
        """Write search.json, sweep.json and best.yaml; return whether a trial has finished."""
        record = self._record()
        write_text(self.folder / "search.json", json.dumps(record, indent=2) + "\n")
        write_sweep(self.folder, {each["folder"]: each["overrides"] for each in record["trials"]})
        if record["best"] is None:
            return False
        trial = record["trials"][record["best"]]
        best = {key: trial[key] for key in ("value", "folder", "overrides", "command")}
        write_text(self.folder / "best.yaml", OmegaConf.to_yaml(OmegaConf.create(best)))
        return True

    def _record(self) -> dict[str, Any]:
        begun = [trial for trial in self._trials() if trial.state != TrialState.WAITING]
        finished = [trial for trial in begun if trial.state == TrialState.COMPLETE]
        sign = 1 if self.direction == "maximize" else -1
        best = max(finished, key=lambda trial: sign * (trial.value or 0.0), default=None)
        return {
            "format": 1,
            "name": self.folder.absolute().name,
            "direction": self.direction,
            "sampler": self.sampler,
            "seed": self.seed,
            "starts_with_own": self.study.user_attrs["starts_with_own"],
            "fixed": list(self.space.fixed),
            "space": {key: _limits(each) for key, each in self.space.searched.items()},
            "best": None if best is None else best.number,
            "importance": self._importance(finished),
            "trials": [self._trial_record(trial) for trial in begun],
        }

    def _trial_record(self, trial: FrozenTrial) -> dict[str, Any]:
        values = self._ordered(trial.params)
        overrides = self.space.overrides(values)
        return {
            "number": trial.number,
            "folder": folder_name(trial.number),
            "state": STATES[trial.state.name],
            "value": trial.value if trial.state == TrialState.COMPLETE else None,
            "values": values,
            "error": self.study.user_attrs.get(f"error of {trial.number}"),
            "overrides": overrides,
            "command": command(overrides, search=True),
        }

    def _ordered(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values in the order in which their keys were given."""
        return {key: values[key] for key in self.space.searched if key in values}

    def _importance(self, finished: list[FrozenTrial]) -> dict[str, float] | None:
        """Shares of the keys in the spread of metrics (PED-ANOVA); None where that says nothing."""
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


def _cut_unfinished_line(file: Path) -> None:
    """Cut off what a process had begun to write when it was killed."""
    if file.exists():
        with file.open("rb+") as journal:
            journal.truncate(journal.read().rfind(b"\n") + 1)

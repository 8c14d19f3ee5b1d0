"""What a search draws from: overrides such as `optimizer.lr=tag(log,interval(1e-3,1e-1))`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class SearchSpace:
    """Overrides that all trials share, and the keys whose values are searched.

    Attributes:
        fixed: overrides as they stand on a command line.
        searched: what the values of each key are drawn from. Choices are kept as they are spelled
            on a command line, so that they may be lists or options of a group.
    """

    fixed: tuple[str, ...]
    searched: Mapping[str, BaseDistribution]

    def overrides(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial; reading them gives back its values to the last bit."""
        return [*self.fixed, *(f"{key}={text(value)}" for key, value in values.items())]

    @staticmethod
    def words(values: Mapping[str, Any]) -> str:
        """Values for the console, numbers to three digits."""
        shown = {k: f"{v:.3g}" if isinstance(v, float) else text(v) for k, v in values.items()}
        return " ".join(f"{key}={value}" for key, value in shown.items())

    def lowest(self) -> dict[str, Any]:
        """One value of each key, to see whether a config with such keys can be composed."""
        return {
            key: limits["choices"][0] if "choices" in limits else limits["low"]
            for key, limits in self.limits().items()
        }

    def check_kinds(self, config: DictConfig) -> None:
        """Refuse fractions for keys that hold whole numbers.

        Raises:
            ValueError: names the key.
        """
        for key, distribution in self.searched.items():
            own = _selected(config, key.lstrip("+"))
            if isinstance(distribution, FloatDistribution) and type(own) is int:
                low, high = f"{distribution.low:g}", f"{distribution.high:g}"
                raise ValueError(
                    f"{key} holds whole numbers, such as {own}: "
                    f"'{key}=int(interval({low},{high}))' searches those"
                )

    def own_values(self, config: DictConfig) -> dict[str, Any]:
        """The values that a config has already, of those keys where the search may draw them.

        Args:
            config: composed with the fixed overrides, `hydra` included.
        """
        chosen = {**OmegaConf.select(config, "hydra.runtime.choices", default={})}
        found = {}
        for key, distribution in self.searched.items():
            name = key.lstrip("+")
            value = chosen[name] if name in chosen else _selected(config, name)
            if isinstance(distribution, CategoricalDistribution):
                value = text(value)
            if _can_draw(distribution, value):
                found[key] = value
        return found

    def limits(self) -> dict[str, dict[str, Any]]:
        """By key: `choices`, or `low`, `high` and whether draws are even over their `log`."""
        return {key: _limits(distribution) for key, distribution in self.searched.items()}

    def described(self) -> dict[str, str]:
        """Each distribution as text, to be compared with that of an earlier start."""
        return {key: distribution_to_json(d) for key, d in sorted(self.searched.items())}


def search_space(overrides: Sequence[str], config_loader: Any = None) -> SearchSpace:
    """Tell what is searched from what is fixed; of a key that comes twice, the last one counts.

    Args:
        overrides: `key=a,b`, `key=range(1,9)`, `key=interval(0,1)` and `key=tag(log,interval(1,9))`
            are searched; `int(interval(1,9))` gives whole numbers.
        config_loader: Hydra's, for `glob(...)`.

    Raises:
        ValueError: nothing is searched, or an interval is impossible; the message names the key.
    """
    fixed: dict[str, str] = {}
    searched: dict[str, BaseDistribution] = {}
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
    return SearchSpace(tuple(fixed.values()), searched)


def text(value: Any) -> str:
    """A value as Hydra's command line reads it back."""
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)


def _distribution(override: Override) -> BaseDistribution:
    value: Any = override.value()
    if isinstance(value, IntervalSweep):
        ends: Any = (value.start, value.end)
        whole = all(isinstance(end, int) for end in ends)  # Hydra's are floats but for int(...)
        numbers: Any = IntDistribution if whole else FloatDistribution
        return numbers(*ends, log="log" in value.tags)
    if override.is_range_sweep() and not value.shuffle:
        steps: list[Any] = list(override.sweep_iterator())
        if len(steps) > 1:
            whole = all(isinstance(step, int) for step in steps)
            kind: Any = IntDistribution if whole else FloatDistribution
            return kind(min(steps), max(steps), step=abs(value.step))
    choices = list(dict.fromkeys(override.sweep_string_iterator()))
    if not choices:
        raise ValueError("no values")
    return CategoricalDistribution(choices)


def _limits(distribution: BaseDistribution) -> dict[str, Any]:
    if isinstance(distribution, CategoricalDistribution):
        return {"choices": list(distribution.choices)}
    numbers: Any = distribution
    return {"low": numbers.low, "high": numbers.high, "log": numbers.log}


def _selected(config: DictConfig, key: str) -> Any:
    try:
        return OmegaConf.select(config, key)
    except Exception:  # what cannot be resolved here is no start for a search
        return None


def _can_draw(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if isinstance(distribution, IntDistribution):
        whole = isinstance(value, int) and (value - distribution.low) % distribution.step == 0
        return whole and distribution.low <= value <= distribution.high
    assert isinstance(distribution, FloatDistribution)
    return distribution.step is None and distribution.low <= value <= distribution.high

"""A setting stands once: its class gives default, checks, the listing of --help and the docs."""

from dataclasses import dataclass

import pytest
from omegaconf import OmegaConf

from panoptic_dl.config import ConfigError, compose
from panoptic_dl.core import settings
from panoptic_dl.core.settings import (
    GROUPS,
    EvaluationSettings,
    Settings,
    defaults,
    experiment_name,
    key,
    settings_table,
)

MODES = {"benchmark", "browse", "demo", "doctor", "export"}


@pytest.mark.parametrize("group", GROUPS)
def test_the_config_has_the_defaults(group):
    config = compose([f"mode={group}"] if group in MODES else [])
    known = {name: v for name, v in defaults(group).items() if "${" not in str(v)}
    assert {name: config[group][name] for name in known} == known
    assert set(config[group]) == set(defaults(group))


def test_the_help_lists_every_key():
    for group in GROUPS:
        for name in defaults(group):
            assert f"  {group}.{name}=" in OmegaConf.create({"help": "${settings:}"}).help


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"scales": 1.0}, "evaluation.scales=1.0 must be a list of numbers, above 0"),
        ({"scales": []}, "evaluation.scales"),
        ({"scales": [1.0, -2]}, "evaluation.scales"),
        ({"save": 3}, "save=3 must be null, panoptic, instances, semantic or a list of them"),
        ({"save": ["panoptic", "masks"]}, "evaluation.save=masks is unknown; choose null, panop"),
        ({"num_threads": -1}, "evaluation.num_threads=-1 must be a whole number, at least 0"),
        ({"num_threads": True}, "evaluation.num_threads=true"),
        ({"flip": 1}, "evaluation.flip=1 must be true or false"),
    ],
)
def test_values_of_another_type_or_range_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**values)


def test_whole_numbers_are_numbers():
    assert EvaluationSettings(scales=[1, 2.5], save=["panoptic"]).kinds == ["panoptic"]


def test_a_new_setting_is_one_field(monkeypatch):
    monkeypatch.setattr(settings, "GROUPS", dict(GROUPS))

    @dataclass(frozen=True)
    class BrowseSettings(Settings, group="browse"):
        count: int = key(8, "Samples.", least=1)
        zoom: float | None = key(None, "Times as large.", above=0, most=4)

    monkeypatch.setattr("panoptic_dl.config.composition.GROUPS", settings.GROUPS)
    assert compose(["mode=browse", "browse.zoom=2"]).browse.zoom == 2
    values = "a number, above 0 and at most 4, or null"
    assert ("browse.zoom", "null", values) in [row[:3] for row in settings_table("browse")]
    with pytest.raises(ConfigError, match=r"browse.zoom=x: expected a number or null"):
        compose(["mode=browse", "browse.zoom=x"])
    with pytest.raises(ConfigError, match=r"browse.zoom=5 must be a number, above 0 and at most 4"):
        compose(["mode=browse", "browse.zoom=5"])


def test_the_name_of_an_experiment():
    choice = {"backbone": "b", "head": "h", "dataset": "d", "task": "t"}
    assert experiment_name(choice) == "d_t_b_h"

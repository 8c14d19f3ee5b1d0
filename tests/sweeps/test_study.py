"""What a search draws from, how its values are spelled, and its journal."""

import struct

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from optuna.distributions import FloatDistribution

from panoptic_dl.sweeps.study import SearchSpace, _cut_unfinished_line


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a=0.3", "nothing to search"),
        ("a=tag(log,interval(0,1))", r"a=tag\(log,interval\(0,1\)\): "),
        ("a=interval(1,0)", r"a=interval\(1,0\): "),
    ],
)
def test_what_is_no_space(override, message):
    with pytest.raises(ValueError, match=message):
        SearchSpace.parse([override])


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(NUMBERS)
def test_values_reach_a_trial_to_the_last_bit(value):
    space = SearchSpace((), {"key": FloatDistribution(0, 1)})
    (text,) = space.overrides({"key": value})
    read = OverridesParser.create().parse_override(text).value()
    assert isinstance(read, float)
    assert struct.pack("d", read) == struct.pack("d", value)


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=2, unique=True), st.integers(1, 7))
def test_ranges_are_the_values_that_hydra_has(ends, step):
    low, high = sorted(ends)
    space = SearchSpace.parse([f"key=range({low},{high},{step})"])
    drawn = space.searched["key"]
    values = list(range(low, high, step))
    if len(values) > 1:
        assert list(range(drawn.low, drawn.high + 1, drawn.step)) == values
    else:
        assert [int(choice) for choice in drawn.choices] == values


def test_a_line_that_was_being_written_is_cut_off(tmp_path):
    file = tmp_path / "journal.jsonl"
    for text, left in (
        ("", ""),
        ("{", ""),
        ('{"a":1}\n', '{"a":1}\n'),
        ('{"a":1}\n{"b', '{"a":1}\n'),
    ):
        file.write_text(text)
        _cut_unfinished_line(file)
        assert file.read_text() == left


def test_the_config_s_own_values_are_found_however_they_are_spelled():
    words = ["a=true,false", "b=[64,64],[96,64]", "c=null,0.9", "d='x y',z", "e=1,2", "f=on,{g:1}"]
    own = {"a": False, "b": [64, 64], "c": None, "d": "x y", "e": True, "f": {"g": 1}}
    space = SearchSpace.parse(words)
    found = space.own_values(OmegaConf.create(own))
    del own["e"]  # yes is not 1
    assert list(found) == ["a", "b", "c", "d", "f"]
    read = [OverridesParser.create().parse_override(text) for text in space.overrides(found)]
    assert {each.key_or_group: each.value() for each in read} == own

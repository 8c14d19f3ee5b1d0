"""Checks are run one after the other, whatever they raise; settings are checked."""

import errno

import pytest

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.settings import DoctorSettings
from panoptic_dl.doctor.context import Check, _from_error, ok, run_checks
from tests.doctor.contexts import dataset_context


def test_doctor_settings_are_checked():
    for name in ("sample", "workers"):
        for value in (0, -1, 1.5, "all", True):
            with pytest.raises(ValueError, match=f"doctor.{name}="):
                DoctorSettings(**{"sample": None, "workers": None, "steps": True, name: value})


def test_errors_become_results_in_their_own_words():
    result = _from_error(DatasetError("it is torn\nmore\nremedy: fetch it\nagain"), "nothing")
    assert (result.found, list(result.problems)) == ("it is torn", ["more"])
    assert result.hint == "fetch it again"
    assert _from_error(KeyError("a"), "look").found == "KeyError: 'a'"
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in _from_error(full, "look").hint


def test_a_check_that_ends_the_program_fails_and_those_that_need_it_wait(tmp_path):
    def leave(context):
        raise SystemExit("the official script stops")

    checks = [
        Check("a", "first", leave, hint="mend it"),
        Check("a", "second", lambda context: ok("never"), needs=["a: first"]),
        Check("a", "third", lambda context: ok("never"), needs=["a: second"]),
        Check("b", "none", lambda context: None),
        Check("b", "last", lambda context: ok("fine"), needs=["b: none"]),
    ]
    results = run_checks(checks, dataset_context(tmp_path, "coco"))
    assert [r.name for r in results] == ["first", "second", "third", "last"]
    assert [r.state.value for r in results] == ["FAIL", "not checked", "not checked", "ok"]
    assert results[0].hint == "mend it"
    assert results[2].found == "needs a: first"

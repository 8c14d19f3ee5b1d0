"""Every fault of the library is found, in its own row, and named; nothing else turns red."""

import shutil

import pytest

from panoptic_dl.doctor.doctor import data_checks

from .broken import FAULTS, write_healthy
from .patients import examined, patient_of, words

KINDS = ("cityscapes", "coco")
ALWAYS = {"train data: classes": "warn", "val data: classes": "warn"}  # tiny: few classes


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    return {kind: write_healthy(tmp_path_factory.mktemp("healthy"), kind) for kind in KINDS}


@pytest.fixture
def copied(healthy, tmp_path):
    def copy(kind):
        shutil.copytree(healthy[kind] / kind, tmp_path / kind)
        return tmp_path

    return copy


def odd_rows(rows):
    """Rows that are neither green nor waiting for another."""
    found = {title: row.verdict.state.value for title, row in rows.items()}
    return {title: state for title, state in found.items() if state in ("warn", "FAIL")}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_dataset_is_green(healthy, kind, task):
    rows = examined(data_checks(), patient_of(healthy[kind], kind, task))
    assert odd_rows(rows) == ALWAYS
    assert {row.verdict.state.value for row in rows.values()} == {"ok", "warn"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_its_row_alone(copied, fault):
    root = copied(fault.kind)
    named = fault.break_it(root)
    rows = examined(data_checks(), patient_of(root, fault.kind))
    first = next(iter(fault.rows))
    split = first.partition(" data")[0]
    always = {k: v for k, v in ALWAYS.items() if "layout" not in first or not k.startswith(split)}
    if fault.rows[first] == "warn":
        always = ALWAYS
    assert odd_rows(rows) == {**always, **fault.rows}
    assert named in words(rows[first]), words(rows[first])
    assert rows[first].verdict.cure
    waiting = [row for row in rows.values() if row.verdict.state.value == "not checked"]
    assert all("needs" in row.verdict.found for row in waiting)
    if "layout" in first and fault.rows[first] == "FAIL":
        assert len(waiting) > 5
    else:
        assert not waiting


def test_each_format_has_its_faults():
    assert len(FAULTS) == len({fault.name for fault in FAULTS})
    assert {fault.kind for fault in FAULTS} == set(KINDS)

"""Which differences between our figures and the official ones count."""

import math

import pytest

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.evaluation.official import pair_up, require_agreement

OWN = {
    "panoptic_seg": {"PQ": 50.0, "PQ-road": 70.0, "num_images": 3},
    "segm": {"AP": 20.0, "AP50": math.nan},
}


def official(**changes: float) -> dict:
    figures = {"PQ": 50.0, "AP": 20.0, "AP50": math.nan} | changes
    return {
        "panoptic_seg": {"PQ": figures["PQ"]},
        "segm": {name: figures[name] for name in ("AP", "AP50")},
    }


def test_shared_figures_are_paired():
    pairs = pair_up(OWN, official())
    assert [(p.task, p.name) for p in pairs] == [
        ("panoptic_seg", "PQ"),
        ("segm", "AP"),
        ("segm", "AP50"),
    ]
    require_agreement(pairs)


@pytest.mark.parametrize("change", [{"PQ": 50 + 9e-11}, {"AP": 20 - 9e-8}])
def test_rounding_is_no_difference(change):
    require_agreement(pair_up(OWN, official(**change)))


@pytest.mark.parametrize(
    "change", [{"PQ": 50 + 2e-10}, {"AP": 20 - 2e-7}, {"AP50": 0.0}, {"AP": math.nan}]
)
def test_what_lies_beyond_is_an_error_that_names_the_figure(change):
    with pytest.raises(EvaluationError, match=rf"1 of 3 figures .*\.{next(iter(change))} "):
        require_agreement(pair_up(OWN, official(**change)))


def test_an_official_task_that_we_do_not_have_is_an_error():
    with pytest.raises(EvaluationError, match="sem_seg"):
        pair_up(OWN, official() | {"sem_seg": {"mIoU": 1.0}})

"""The table of metrics: the published columns, honest gaps, nothing impossible."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from panoptic_dl.config.builder import MOVED, find_target
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.run_folder import as_json
from panoptic_dl.evaluation import metrics
from panoptic_dl.evaluation.metrics import (
    METRICS,
    PUBLISHED,
    Metric,
    checked,
    evaluator_configs,
    headline,
    is_better,
)
from panoptic_dl.report.results import as_text

PANOPTIC = {
    name + suffix: index + 10.0
    for index, (name, suffix) in enumerate(
        (name, suffix) for suffix in ("", "_th", "_st") for name in ("PQ", "SQ", "RQ")
    )
}


def test_every_evaluator_of_the_table_can_be_named_by_a_config():
    for dataset in ("cityscapes", "coco", "custom"):
        configs = evaluator_configs(dataset)
        assert configs["official"].keys() == configs["streaming"].keys()
        for kind, prefix in (("streaming", "Streaming"), ("official", "Official")):
            for evaluators in configs[kind].values():
                assert evaluators
                for config in evaluators.values():
                    assert find_target(config["_target_"]).__name__.startswith(prefix)


def test_configs_of_earlier_versions_name_the_same_evaluators():
    for old in MOVED:
        if ".evaluation." in old and old.rpartition(".")[2].endswith(("quality", "iou", "ap")):
            assert find_target(old).__module__.startswith("panoptic_dl.evaluation.")


def test_a_metric_that_is_no_percentage_is_shown_as_it_is(monkeypatch):
    error = Metric("error", (("own", "error"),), unit="pixels", higher_is_better=False)
    monkeypatch.setattr(metrics, "METRICS", (*METRICS, error))
    assert headline({"own": {"error": 250.0}}) == {"error": 250.0}
    assert is_better("ema/error", 1.0, 2.0)
    assert not is_better("error", 2.0, 1.0)
    assert is_better("PQ", 2.0, 1.0)
    assert is_better("unknown", 2.0, 1.0)


def test_published_columns_come_first():
    assert tuple(metric.name for metric in METRICS[: len(PUBLISHED)]) == PUBLISHED


def test_cityscapes_panoptic_has_the_columns_of_the_published_table():
    results = {
        "panoptic_seg": PANOPTIC,
        "sem_seg": {"IoU": 80.5, "iIoU": 60.0, "IoU_sup": 90.0},
        "segm": {"AP": 33.0, "AP50": 55.0},
    }
    figures = headline(results)
    assert list(figures)[:5] == ["PQ", "SQ", "RQ", "mIoU", "AP"]
    assert figures["mIoU"] == 80.5
    assert figures["AP"] == 33.0
    assert figures["PQ_th"] == PANOPTIC["PQ_th"]
    assert figures["RQ_st"] == PANOPTIC["RQ_st"]


def test_coco_panoptic_has_box_and_mask_ap():
    figures = headline({"panoptic_seg": PANOPTIC, "bbox": {"AP": 1.0}, "segm": {"AP": 2.0}})
    assert list(figures)[:5] == ["PQ", "SQ", "RQ", "box_AP", "mask_AP"]
    assert (figures["box_AP"], figures["mask_AP"]) == (1.0, 2.0)


def test_semantic_has_miou_alone():
    assert headline({"sem_seg": {"mIoU": 12.0, "IoU-road": 3.0}}) == {"mIoU": 12.0}
    assert headline({}) == {}


def test_a_figure_that_cannot_be_computed_stays_visible():
    figures = headline({"panoptic_seg": PANOPTIC | {"PQ_th": float("nan")}})
    assert math.isnan(figures["PQ_th"])
    assert as_text(figures["PQ_th"]) == "n/a"
    assert json.loads(json.dumps(as_json(figures)))["PQ_th"] is None


@pytest.mark.parametrize("value", [669.0, -0.1, float("inf")])
def test_an_impossible_figure_is_an_error(value):
    with pytest.raises(EvaluationError, match=r"PQ = .* no percentage"):
        headline({"panoptic_seg": PANOPTIC | {"PQ": value}})


def test_rounding_above_hundred_is_cut():
    assert checked(100 + 1e-12, "PQ") == 100.0


def test_text_has_one_digit():
    assert as_text(62.649) == "62.6"
    assert as_text(62.649, digits=2) == "62.65"


values = st.recursive(
    st.floats() | st.integers() | st.text() | st.none() | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50)
@given(values)
def test_any_results_become_strict_json(value):
    json.loads(json.dumps(as_json(value), allow_nan=False), parse_constant=lambda c: pytest.fail(c))


def test_numpy_scalars_become_numbers():
    assert as_json({"a": (np.float32(0.5), np.int64(3), np.float64("nan"))}) == {
        "a": [0.5, 3.0, None]
    }

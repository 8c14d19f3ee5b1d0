"""The table of metrics, and that all evaluators in it agree with the official ones."""

import json
import math

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_dl.config import build, compose
from panoptic_dl.config.builder import MOVED, find_target
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.run_folder import as_json
from panoptic_dl.datasets.coco import coco_panoptic, coco_semantic
from panoptic_dl.evaluation import metrics
from panoptic_dl.evaluation.cityscapes_instances import StreamingCityscapesInstanceEvaluator
from panoptic_dl.evaluation.cityscapes_semantic import StreamingCityscapesSemanticEvaluator
from panoptic_dl.evaluation.metrics import (
    METRICS,
    PUBLISHED,
    Metric,
    _checked,
    evaluator_configs,
    headline,
    headline_names,
    is_better,
)
from panoptic_dl.evaluation.official import (
    OfficialCityscapesInstanceEvaluator,
    OfficialCityscapesSemanticEvaluator,
    OfficialPanopticEvaluator,
    OfficialSemanticEvaluator,
)
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator
from panoptic_dl.report.text import as_text
from tests.evaluation.model_outputs import REAL, err, evaluate, predict

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
                    target = find_target(config["_target_"])
                    assert target.__name__.startswith(prefix)
                    assert kind == "official" or target.tasks


def test_names_are_known_before_an_evaluation():
    assert headline_names(["sem_seg"]) == ["mIoU"]
    assert headline_names(["segm"]) == ["AP"]
    assert headline_names(["bbox", "segm"]) == ["box_AP", "mask_AP"]
    assert headline_names(["panoptic_seg"]) == list(PANOPTIC)


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
    assert _checked(100 + 1e-12, "PQ") == 100.0


def test_text_has_one_digit():
    assert as_text(62.649) == "62.6"
    assert as_text(62.649, digits=2) == "62.65"


values = st.recursive(
    st.floats() | st.integers() | st.text() | st.none() | st.booleans(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(values)
def test_any_results_become_strict_json(value):
    json.loads(json.dumps(as_json(value), allow_nan=False), parse_constant=lambda c: pytest.fail(c))


def test_numpy_scalars_become_numbers():
    assert as_json({"a": (np.float32(0.5), np.int64(3), np.float64("nan"))}) == {
        "a": [0.5, 3.0, None]
    }


TWO_IMAGES = ["dataset.root.num_train=2", "dataset.root.num_val=2"]


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
@pytest.mark.parametrize("kind", ["official", "streaming"])
def test_the_truth_of_a_toy_has_100_in_every_figure(dataset, task, kind):
    cfg = compose([f"dataset={dataset}", f"task={task}", *TWO_IMAGES])
    panoptic, name = build(cfg.dataset.test.panoptic), build(cfg.dataset.test[task])
    assert name.startswith("toy_")
    truth = sorted(DatasetCatalog.get(panoptic), key=lambda record: record["file_name"])
    records = sorted(DatasetCatalog.get(name), key=lambda record: record["file_name"])
    things = set(cfg.dataset.thing_ids)
    outputs = [predict(record, cfg.dataset.num_classes, things) for record in truth]
    figures = {}
    for make_evaluator in build(cfg.dataset.evaluators[kind][task]).values():
        figures |= headline(evaluate(make_evaluator(), records, outputs))
    assert len(figures) == (11 if task == "panoptic" else 1)
    assert figures == dict.fromkeys(figures, 100.0)


SMALL = ["dataset.root.num_train=1", "dataset.root.num_val=3"]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))


def compare_pairs(pairs, records, num_classes, thing_ids, tolerance=1e-10) -> list[dict]:
    """Evaluate by all pairs of evaluators; figures are percentages, so 1e-10 is 1e-12 of 1."""
    for evaluator in (evaluator for pair in pairs for evaluator in pair):
        evaluator.reset()
    draw = np.random.default_rng(0)
    for record in records:
        output = err(record, num_classes, thing_ids, draw)
        for evaluator in (evaluator for pair in pairs for evaluator in pair):
            evaluator.process([record], [output])
    results = []
    for ours, theirs in pairs:
        (found,), (expected,) = ours.evaluate().values(), theirs.evaluate().values()
        assert {key: found[key] for key in expected} == pytest.approx(
            expected, rel=0, abs=tolerance, nan_ok=True
        )
        assert found["num_images"] == len(records)
        results.append(found)
    return results


def test_metrics_of_toy_cityscapes_are_the_official_ones():
    cfg = compose(["dataset=toy_cityscapes", "task=panoptic", *SMALL])
    name = build(cfg.dataset.test.panoptic)
    pairs = [
        (StreamingPanopticEvaluator(name), OfficialPanopticEvaluator(name)),
        (
            StreamingCityscapesSemanticEvaluator(name),
            OfficialCityscapesSemanticEvaluator(name),
        ),
        (
            StreamingCityscapesInstanceEvaluator(name),
            OfficialCityscapesInstanceEvaluator(name),
        ),
    ]
    panoptic, semantic, instance = compare_pairs(
        pairs, DatasetCatalog.get(name), cfg.dataset.num_classes, set(cfg.dataset.thing_ids)
    )
    assert 5 < panoptic["PQ"] < 95
    assert panoptic["num_wrong_areas"] == 0
    assert 5 < semantic["IoU"] < 95
    assert 5 < instance["AP"] < 95


def compare_coco(root: str, prefix: str, num_images: int) -> None:
    name = coco_panoptic(root=root, split="val", prefix=prefix)
    labels = coco_semantic(root=root, split="val", prefix=prefix)
    pairs = [
        (StreamingPanopticEvaluator(name), OfficialPanopticEvaluator(name)),
        (StreamingSemanticEvaluator(labels), OfficialSemanticEvaluator(labels)),
    ]
    records = DatasetCatalog.get(name)
    assert len(records) == num_images
    panoptic, semantic = compare_pairs(pairs, records, 133, set(range(80)))
    assert 5 < panoptic["PQ"] < 95
    assert panoptic["num_wrong_areas"] == 0
    assert 5 < semantic["mIoU"] < 95


def test_metrics_of_toy_coco_are_the_official_ones():
    cfg = compose(["dataset=toy_coco", "task=panoptic", *SMALL])
    compare_coco(build(cfg.dataset.root), "toy_", 3)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_metrics_of_real_coco_are_the_official_ones():
    compare_coco(str(REAL), "streaming_real_", 100)

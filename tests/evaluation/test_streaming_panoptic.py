"""Streaming panoptic quality: panopticapi's figures on adversarial images, and its own guards."""

import contextlib
import io
import math
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import PQStat, pq_compute_single_core

from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.coco import coco_panoptic
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import OfficialPanopticEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator, match_segments
from tests.data.small import write_cityscapes, write_coco
from tests.evaluation.panoptic_scenes import CATEGORIES, NUM_CLASSES, outputs_of, register
from tests.evaluation.scenes import DIVISOR, PanopticScene, panoptic_scene, write_panoptic
from tests.evaluation.truth import evaluate, predict


def official(scenes: list[PanopticScene], folder) -> PQStat:
    """What panopticapi makes of the scenes."""
    pairs = []
    for index, scene in enumerate(scenes):
        write_panoptic(scene, folder, str(index))
        predicted = [
            {"id": int(label) + 1, "category_id": int(label) // DIVISOR}
            for label in np.unique(scene.panoptic)
            if label >= 0
        ]
        truth = {"image_id": index, "file_name": f"{index}.png", "segments_info": scene.segments}
        pairs.append((truth, truth | {"segments_info": predicted}))
    with contextlib.redirect_stdout(io.StringIO()):
        return pq_compute_single_core(
            0, pairs, str(folder / "truth"), str(folder / "prediction"), CATEGORIES
        )


def compare(scene: PanopticScene, statistics: PQStat) -> None:
    matches = match_segments(
        scene.truth,
        scene.segments,
        scene.panoptic,
        num_classes=NUM_CLASSES,
        label_divisor=DIVISOR,
    )
    for category in range(NUM_CLASSES):
        expected, own = statistics[category], matches.categories == category
        assert own.sum() == expected.tp
        assert (matches.false_positives == category).sum() == expected.fp
        assert (matches.false_negatives == category).sum() == expected.fn
        assert matches.ious[own].sum() == pytest.approx(expected.iou, abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_matches_are_those_of_panopticapi(tmp_path_factory, seed):
    scene = panoptic_scene(seed)
    compare(scene, official([scene], tmp_path_factory.getbasetemp() / "scenes"))


def test_the_scenes_hold_what_is_hard():
    """A generator that drew nothing odd would prove nothing."""
    scenes = [panoptic_scene(seed) for seed in range(200)]
    crowds = [
        [segment["category_id"] for segment in scene.segments if segment["iscrowd"]]
        for scene in scenes
    ]
    assert any(len(found) > len(set(found)) for found in crowds)  # several of a class
    assert any((scene.panoptic == -1).all() for scene in scenes)
    assert any(segment["area"] == 0 for scene in scenes for segment in scene.segments)
    assert any(segment["area"] == 1 for scene in scenes for segment in scene.segments)
    assert any((scene.truth == 77_777).any() for scene in scenes)
    assert any((scene.panoptic // DIVISOR == NUM_CLASSES - 1).any() for scene in scenes)
    assert any(len(np.unique(scene.panoptic)) > 200 for scene in scenes)


def crowds_of_one_class(order):
    """A prediction on the first, half of it on a crowd of the other class."""
    truth = np.zeros((4, 8), dtype=np.int64)
    truth[:, :4], truth[:, 4:] = 5, 9
    segments = [{"id": i, "category_id": 1, "iscrowd": 1, "area": 16} for i in order]
    panoptic = np.full(truth.shape, -1)
    panoptic[:, :4] = DIVISOR + 1
    return PanopticScene(truth, segments, panoptic)


@pytest.mark.parametrize(("order", "errors"), [((5, 9), 1), ((9, 5), 0)])
def test_only_the_last_crowd_of_a_class_excuses(tmp_path, order, errors):
    scene = crowds_of_one_class(order)
    statistics = official([scene], tmp_path)
    assert statistics[1].fp == errors
    compare(scene, statistics)


@pytest.mark.parametrize(("common", "matched"), [(8, False), (9, True)])
def test_exactly_one_half_is_no_match(tmp_path, common, matched):
    truth = np.full((1, 16), 3)
    panoptic = np.full((1, 16), -1)
    panoptic[0, :common] = DIVISOR
    scene = PanopticScene(truth, [{"id": 3, "category_id": 1, "iscrowd": 0, "area": 16}], panoptic)
    statistics = official([scene], tmp_path)
    assert statistics[1].tp == matched
    compare(scene, statistics)


@pytest.mark.parametrize(("void", "errors"), [(8, 1), (9, 0)])
def test_more_than_half_on_void_is_no_error(tmp_path, void, errors):
    truth = np.full((1, 16), 3)
    truth[0, :void] = 0
    panoptic = np.full((1, 16), 2 * DIVISOR)
    segments = [{"id": 3, "category_id": 1, "iscrowd": 0, "area": 16 - void}]
    statistics = official([PanopticScene(truth, segments, panoptic)], tmp_path)
    assert statistics[2].fp == errors
    compare(PanopticScene(truth, segments, panoptic), statistics)


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_figures_are_those_of_panopticapi(tmp_path, first):
    scenes = [panoptic_scene(seed) for seed in range(first, first + 20)]
    name = register(scenes, tmp_path)
    records = DatasetCatalog.get(name)
    figures = evaluate(StreamingPanopticEvaluator(name), records, outputs_of(scenes))
    figures = figures["panoptic_seg"]
    statistics = official(scenes, tmp_path)
    for suffix, things in (("", None), ("_th", True), ("_st", False)):
        average, per_class = statistics.pq_average(CATEGORIES, isthing=things)
        for key in ("PQ", "SQ", "RQ"):
            expected = 100 * average[key.lower()]
            assert figures[key + suffix] == pytest.approx(expected, rel=1e-12, abs=1e-12)
            for category, values in per_class.items():
                counts = statistics[category]
                found = figures[f"{key}-class{category}"]
                if counts.tp + counts.fp + counts.fn == 0:
                    assert math.isnan(found)
                else:
                    assert found == pytest.approx(100 * values[key.lower()], rel=1e-12, abs=1e-12)
    assert figures["num_images"] == 20
    unlisted = sum(bool((scene.truth == 77_777).any()) for scene in scenes)
    assert figures["num_wrong_areas"] == unlisted


@pytest.mark.parametrize("kind", ["cityscapes", "coco"])
def test_figures_equal_the_official_evaluators_on_datasets(tmp_path, monkeypatch, kind):
    if kind == "cityscapes":
        write_cityscapes(tmp_path, val=3)
        name = cityscapes_panoptic(root=str(tmp_path), split="val", prefix="streaming_")
        options = {"num_classes": 19, "thing_ids": set(range(11, 19))}
    else:
        write_coco(tmp_path, val=3)
        name = coco_panoptic(root=str(tmp_path), split="val", prefix="streaming_")
        options = {"num_classes": 133, "thing_ids": set(range(80))}
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    records = DatasetCatalog.get(name)
    outputs = [predict(record, **options, with_logits=False) for record in records]
    ours = StreamingPanopticEvaluator(name)
    perfect = evaluate(ours, records, outputs)
    assert set(headline(perfect).values()) == {100.0}
    generator = torch.Generator().manual_seed(0)
    for output in outputs:  # a model that errs
        panoptic = output["panoptic_seg"][0]
        panoptic[torch.rand(panoptic.shape, generator=generator) < 0.2] = 2000
        panoptic[:, 30:50] = panoptic[:, 30:50].roll(3, 1)
    before = [output["panoptic_seg"][0].clone() for output in outputs]
    figures = headline(evaluate(ours, records, outputs))
    expected = headline(evaluate(OfficialPanopticEvaluator(name), records, outputs))
    assert figures == pytest.approx(expected, abs=1e-12)
    assert 10 < figures["PQ"] < 90
    for output, panoptic in zip(outputs, before, strict=True):
        assert torch.equal(output["panoptic_seg"][0], panoptic)
    assert os.listdir(work) == []


def test_confusions_are_the_pixels_of_pairs_of_classes(tmp_path):
    scenes = [panoptic_scene(seed) for seed in range(20)]
    name = register(scenes, tmp_path)
    evaluator = StreamingPanopticEvaluator(name)
    evaluate(evaluator, DatasetCatalog.get(name), outputs_of(scenes))
    expected = np.zeros((NUM_CLASSES, NUM_CLASSES + 1), dtype=int)
    for scene in scenes:
        for segment in scene.segments:
            if segment["iscrowd"]:
                continue
            predicted = scene.panoptic[scene.truth == segment["id"]] // DIVISOR
            predicted = np.where(predicted < 0, NUM_CLASSES, predicted)
            np.add.at(expected[segment["category_id"]], predicted, 1)
    assert np.array_equal(evaluator.confusions, expected)
    assert (expected[:, :-1] > 0).sum() > NUM_CLASSES
    assert expected[:, -1].sum() > 0


def test_matched_ids_belong_together():
    for scene in (panoptic_scene(seed) for seed in range(60)):
        matches = match_segments(
            scene.truth,
            scene.segments,
            scene.panoptic,
            num_classes=NUM_CLASSES,
            label_divisor=DIVISOR,
        )
        void = ~np.isin(scene.truth, [s["id"] for s in scene.segments]) & (scene.truth == 0)
        for (true, predicted), iou in zip(matches.pairs, matches.ious, strict=True):
            one, other = scene.truth == true, scene.panoptic == predicted
            assert iou == (one & other).sum() / ((one | other) & ~(other & void)).sum()
        wrong = set(matches.false_positive_ids.tolist())
        assert wrong <= set(np.unique(scene.panoptic).tolist()) - set(matches.pairs[:, 1].tolist())
        assert [label // DIVISOR for label in matches.false_positive_ids] == list(
            matches.false_positives
        )


@pytest.mark.parametrize("with_kind", [True, False])
def test_listed_segments_have_the_same_figures(tmp_path, with_kind):
    scenes = [panoptic_scene(seed) for seed in range(10)]
    name = register(scenes, tmp_path)
    records, outputs = DatasetCatalog.get(name), outputs_of(scenes)
    expected = evaluate(StreamingPanopticEvaluator(name), records, outputs)
    for output in outputs:
        ids = output["panoptic_seg"][0] + 1
        segments = [
            {"id": int(label), "category_id": int(label - 1) // DIVISOR}
            | ({"isthing": bool((label - 1) // DIVISOR % 2)} if with_kind else {})
            for label in ids.unique()
            if label > 0
        ]
        output["panoptic_seg"] = (ids, segments)
    evaluator = StreamingPanopticEvaluator(name)
    for record, output, scene in zip(records, outputs, scenes, strict=True):
        drawn, nothing = evaluator.as_output(evaluator.extract(record, output))["panoptic_seg"]
        assert nothing is None
        assert np.array_equal(drawn // DIVISOR, scene.panoptic // DIVISOR)  # -1 // 1000 is -1
        things = drawn // DIVISOR % 2 == 1
        pairs = np.stack((drawn[things], scene.panoptic[things.numpy()]))
        assert np.unique(pairs, axis=1).shape[1] == len(np.unique(scene.panoptic[things.numpy()]))
    figures = evaluate(StreamingPanopticEvaluator(name), records, outputs)
    assert figures["panoptic_seg"] == pytest.approx(expected["panoptic_seg"], nan_ok=True, abs=0)


def test_without_kind_a_category_is_an_id_of_the_dataset(tmp_path):
    write_coco(tmp_path, val=1)
    name = coco_panoptic(root=str(tmp_path), split="val", prefix="streaming_ids_")
    records = DatasetCatalog.get(name)
    to_dataset = {
        contiguous: dataset_id
        for kind in ("thing", "stuff")
        for dataset_id, contiguous in getattr(
            MetadataCatalog.get(name), f"{kind}_dataset_id_to_contiguous_id"
        ).items()
    }
    output = predict(records[0], num_classes=133, thing_ids=set(range(80)), with_logits=False)
    ids = output["panoptic_seg"][0] + 1
    segments = [
        {"id": int(label), "category_id": to_dataset[int(label - 1) // DIVISOR]}
        for label in ids.unique()
        if label > 0
    ]
    figures = evaluate(
        StreamingPanopticEvaluator(name), records, [{"panoptic_seg": (ids, segments)}]
    )
    assert figures["panoptic_seg"]["PQ"] == 100.0


def test_areas_are_counted_and_wrong_ones_reported(tmp_path, caplog):
    scenes = [panoptic_scene(seed) for seed in (1, 2, 3)]
    name = register(scenes, tmp_path)
    records = DatasetCatalog.get(name)
    before = evaluate(StreamingPanopticEvaluator(name), records, outputs_of(scenes))
    changed = 0
    for record in records:
        for segment in record["segments_info"][:2]:
            segment["area"] += 1000
            changed += 1
    assert changed
    after = evaluate(StreamingPanopticEvaluator(name), records, outputs_of(scenes))
    number = before["panoptic_seg"].pop("num_wrong_areas") + changed
    assert after["panoptic_seg"].pop("num_wrong_areas") == number
    assert after["panoptic_seg"] == pytest.approx(before["panoptic_seg"], nan_ok=True, abs=0)
    assert f"{number} true segments have another area" in caplog.text

"""Panoptic quality: that of panopticapi and cityscapesscripts, and what is refused."""

import contextlib
import io
import itertools
import json
import math
import os
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panopticapi.evaluation
import pytest
import torch
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import given, settings
from hypothesis import strategies as st
from panopticapi.evaluation import PQStat, pq_compute_single_core
from panopticapi.utils import id2rgb
from PIL import Image, ImageFile

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.coco import coco_panoptic
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.official import OfficialPanopticEvaluator
from panoptic_dl.evaluation.panoptic import (
    StreamingPanopticEvaluator,
    match_segments,
    number_segments,
)
from tests.datasets.tiny_datasets import write_cityscapes, write_coco
from tests.evaluation.model_outputs import err, evaluate, predict
from tests.evaluation.panoptic_scenes import CATEGORIES, NUM_CLASSES, outputs_of, register
from tests.evaluation.scenes import DIVISOR, PanopticScene, panoptic_scene, write_panoptic


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


@settings(max_examples=150, deadline=None)
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
    for record in records:  # the same colors, which panopticapi itself could not read so
        label = Image.open(record["pan_seg_file_name"]).convert("RGB")
        label.quantize(256).save(record["pan_seg_file_name"])
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


LABEL_IDS = [label.id for label in EVALUATED]  # by train id
NAMES = [label.name for label in EVALUATED]
LABEL_CATEGORIES = [
    {"id": label.id, "name": label.name, "isthing": int(label.hasInstances)} for label in EVALUATED
]
GROUPS = {"All": "", "Things": "_th", "Stuff": "_st"}
ROAD, PERSON, RIDER = (NAMES.index(name) for name in ("road", "person", "rider"))
numbers = itertools.count()


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    """Two threads for the script, which takes a process for each core of the machine."""
    pools = SimpleNamespace(cpu_count=lambda: 2, Pool=ThreadPool)
    monkeypatch.setattr(script, "multiprocessing", pools)


def write_prediction(image: str, panoptic: np.ndarray, folder: Path) -> dict:
    """Write a PNG of (H, W) train id * DIVISOR + instance; return what the JSON says of it."""
    file_name = f"{image}_pred_panoptic.png"
    Image.fromarray(id2rgb(panoptic + 1)).save(folder / file_name)
    segments = [
        {"id": int(label) + 1, "category_id": LABEL_IDS[label // DIVISOR]}
        for label in np.unique(panoptic)
        if label >= 0
    ]
    return {"image_id": image, "file_name": file_name, "segments_info": segments}


def by_script(
    truth_json: Path, truth: Path, panoptics: dict[str, np.ndarray], folder: Path
) -> dict:
    """Write the predictions of all images, and ask the script."""
    predictions = folder / "predictions"
    predictions.mkdir()
    annotations = [write_prediction(*item, predictions) for item in panoptics.items()]
    found = folder / "predictions.json"
    found.write_text(json.dumps({"annotations": annotations}))
    with contextlib.redirect_stdout(io.StringIO()):
        results: dict = script.evaluatePanoptic(
            str(truth_json), str(truth), str(found), str(predictions), str(folder / "results.json")
        )
    return results


def write_truth(scenes: list[PanopticScene], folder: Path) -> tuple[Path, Path, str]:
    """Truth of scenes whose categories are train ids, as createPanopticImgs writes it.

    Returns:
        The JSON file, the folder of the PNG files, and the name of the dataset.
    """
    name = f"cityscapes_panoptic_{next(numbers)}"
    truth = folder / name
    truth.mkdir(parents=True)
    annotations, records = [], []
    for index, scene in enumerate(scenes):
        image = f"aachen_{index:06d}_000019"
        file_name = f"{image}_gtFine_panoptic.png"
        Image.fromarray(id2rgb(scene.truth)).save(truth / file_name)
        segments = [
            segment | {"category_id": LABEL_IDS[segment["category_id"]]}
            for segment in scene.segments
        ]
        annotations.append({"image_id": image, "file_name": file_name, "segments_info": segments})
        records.append(
            {
                "image_id": image,
                "pan_seg_file_name": str(truth / file_name),
                "segments_info": scene.segments,
            }
        )
    file = folder / f"{name}.json"
    file.write_text(json.dumps({"annotations": annotations, "categories": LABEL_CATEGORIES}))
    DatasetCatalog.register(name, lambda: records)
    of_things = {
        label.id: train_id for train_id, label in enumerate(EVALUATED) if label.hasInstances
    }
    MetadataCatalog.get(name).set(
        stuff_classes=NAMES,
        thing_dataset_id_to_contiguous_id=of_things,
        stuff_dataset_id_to_contiguous_id={
            label: index for index, label in enumerate(LABEL_IDS) if label not in of_things
        },
        label_divisor=DIVISOR,
    )
    return file, truth, name


def ask_both(scenes: list[PanopticScene], folder: Path) -> tuple[dict, dict]:
    """Our figures and the script's."""
    file, truth, name = write_truth(scenes, folder)
    records = DatasetCatalog.get(name)
    outputs = [{"panoptic_seg": (torch.from_numpy(scene.panoptic), None)} for scene in scenes]
    ours = evaluate(StreamingPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    panoptics = {
        record["image_id"]: scene.panoptic for record, scene in zip(records, scenes, strict=True)
    }
    return ours, by_script(file, truth, panoptics, folder)


def assert_same(ours: dict, theirs: dict) -> None:
    """To 1e-12 of 1; a class that the script prints as 0 and leaves out is not a number here."""
    for name in ("PQ", "SQ", "RQ"):
        for group, suffix in GROUPS.items():
            expected = theirs[group][name.lower()]
            assert ours[name + suffix] / 100 == pytest.approx(expected, rel=0, abs=1e-12)
        for category in LABEL_CATEGORIES:
            value = ours[f"{name}-{category['name']}"]
            expected = theirs["per_class"][category["id"]][name.lower()]
            assert (0 if math.isnan(value) else value / 100) == pytest.approx(
                expected, rel=0, abs=1e-12
            )
    for group, suffix in GROUPS.items():
        counted = [
            category["name"]
            for category in LABEL_CATEGORIES
            if suffix in ("", "_th" if category["isthing"] else "_st")
        ]
        values = [ours[f"PQ-{name}"] for name in counted]
        assert theirs[group]["n"] == sum(not math.isnan(value) for value in values)


@pytest.mark.parametrize("seed", range(12))
def test_results_are_those_of_cityscapes_script(tmp_path, seed):
    scenes = [panoptic_scene(1000 + 30 * seed + number, len(NAMES)) for number in range(30)]
    ours, theirs = ask_both(scenes, tmp_path)
    assert_same(ours, theirs)
    assert 1 < ours["PQ"] < 99
    assert theirs["Things"]["n"] > 2


def test_toy_cityscapes_by_the_script(tmp_path, tmp_path_factory, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path_factory.getbasetemp() / "toys"))
    small = ["dataset.root.num_train=1", "dataset.root.num_val=3"]
    cfg = compose(["dataset=toy_cityscapes", "task=panoptic", *small])
    name = build(cfg.dataset.test.panoptic)
    metadata, records = MetadataCatalog.get(name), DatasetCatalog.get(name)
    draw, things = np.random.default_rng(0), set(cfg.dataset.thing_ids)
    outputs = [err(record, len(NAMES), things, draw, with_logits=False) for record in records]
    ours = evaluate(StreamingPanopticEvaluator(name), records, outputs)["panoptic_seg"]
    panoptics = {
        record["image_id"]: output["panoptic_seg"][0].numpy()
        for record, output in zip(records, outputs, strict=True)
    }
    truth_json, truth = Path(metadata.panoptic_json), Path(metadata.panoptic_root)
    assert_same(ours, by_script(truth_json, truth, panoptics, tmp_path))
    assert 5 < ours["PQ"] < 95
    assert any(segment["iscrowd"] for record in records for segment in record["segments_info"])


def scene_of(*segments: tuple[int, int, int], predicted: list[int]) -> PanopticScene:
    """Eight pixels for each of (category, crowd, listed area) and for each predicted category.

    Category -1 is void.
    """
    truth, listed = np.zeros((len(segments), 8), dtype=np.int64), []
    for row, (category, crowd, area) in enumerate(segments):
        if category >= 0:
            truth[row] = 26_000 + row
            listed.append(
                {"id": 26_000 + row, "category_id": category, "iscrowd": crowd, "area": area}
            )
    rows = [
        category * DIVISOR + row if category >= 0 else -1 for row, category in enumerate(predicted)
    ]
    panoptic = np.repeat(np.array(rows)[:, None], 8, axis=1)
    return PanopticScene(truth, listed, panoptic)


def test_a_class_that_is_only_predicted_counts_as_0(tmp_path):
    scene = scene_of((ROAD, 0, 8), (PERSON, 0, 8), (ROAD, 0, 8), predicted=[ROAD, PERSON, RIDER])
    ours, theirs = ask_both([scene], tmp_path)
    assert_same(ours, theirs)
    assert theirs["Things"]["n"] == 2
    assert (ours["PQ-rider"], ours["PQ-person"], ours["PQ_th"]) == (0, 100, 50)


@pytest.mark.parametrize("excuse", [(-1, 0, 0), (RIDER, 1, 8)])
def test_a_class_whose_every_prediction_is_excused_does_not_count(tmp_path, excuse):
    """On void, or on a group of the class, which nobody can miss either."""
    scene = scene_of((ROAD, 0, 8), (PERSON, 0, 8), excuse, predicted=[ROAD, PERSON, RIDER])
    ours, theirs = ask_both([scene], tmp_path)
    assert_same(ours, theirs)
    assert theirs["Things"]["n"] == 1
    assert theirs["per_class"][LABEL_IDS[RIDER]]["pq"] == 0
    assert math.isnan(ours["PQ-rider"])
    assert ours["PQ_th"] == 100


def test_void_does_not_count_in_a_union(tmp_path):
    scene = scene_of((ROAD, 0, 8), (-1, 0, 0), (PERSON, 0, 8), predicted=[ROAD, ROAD, PERSON])
    scene.panoptic[1, :6] = scene.panoptic[0, 0]  # 14 pixels for a road of 8
    ours, theirs = ask_both([scene], tmp_path)
    assert_same(ours, theirs)
    assert ours["PQ-road"] == 100


def test_without_any_thing_the_script_divides_by_zero(tmp_path):
    scene = scene_of((ROAD, 0, 8), predicted=[ROAD])
    file, truth, name = write_truth([scene], tmp_path)
    (record,) = DatasetCatalog.get(name)
    with pytest.raises(ZeroDivisionError):
        by_script(file, truth, {record["image_id"]: scene.panoptic}, tmp_path)
    output = {"panoptic_seg": (torch.from_numpy(scene.panoptic), None)}
    ours = evaluate(StreamingPanopticEvaluator(name), [record], [output])["panoptic_seg"]
    assert ours["PQ"] == ours["PQ_st"] == 100
    assert math.isnan(ours["PQ_th"])


def test_the_script_believes_the_areas_of_the_file(tmp_path):
    scene = scene_of((ROAD, 0, 2), (PERSON, 0, 8), predicted=[ROAD, PERSON])
    ours, theirs = ask_both([scene], tmp_path)
    assert theirs["per_class"][LABEL_IDS[ROAD]]["pq"] == 4  # 8 pixels of 8 + 2 - 8
    assert ours["PQ-road"] == 100
    assert ours["num_wrong_areas"] == 1


def test_script_and_panopticapi_count_alike(tmp_path):
    """What is followed is the same for both datasets: there is nothing to choose."""
    scenes = [panoptic_scene(seed, len(NAMES)) for seed in range(60)]
    truth_json, truth, _ = write_truth(scenes, tmp_path)
    annotations = json.loads(truth_json.read_text())["annotations"]
    for scene, annotation in zip(scenes, annotations, strict=True):
        predictions = tmp_path / annotation["image_id"]
        predictions.mkdir()
        counts = []
        for module in (script, panopticapi.evaluation):  # they write into what they get
            pair = annotation, write_prediction(annotation["image_id"], scene.panoptic, predictions)
            with contextlib.redirect_stdout(io.StringIO()):
                statistics = module.pq_compute_single_core(
                    0, [pair], str(truth), str(predictions), set(LABEL_IDS)
                )
            counts.append([vars(statistics[label]) for label in LABEL_IDS])
        assert counts[0] == counts[1]


@pytest.fixture
def two(tmp_path):
    scenes = [panoptic_scene(seed) for seed in (1, 2)]
    name = register(scenes, tmp_path)
    return DatasetCatalog.get(name), outputs_of(scenes), StreamingPanopticEvaluator(name)


def test_an_image_that_nobody_evaluated_is_named(two):
    records, outputs, evaluator = two
    with pytest.raises(EvaluationError, match=r"no prediction for image 0 .*1 predictions for 2"):
        evaluate(evaluator, records[1:], outputs[1:])


def test_an_image_without_truth_is_named(two):
    records, outputs, evaluator = two
    with pytest.raises(EvaluationError, match="no ground truth for image 17"):
        evaluator.process([records[0] | {"image_id": 17}], outputs[:1])


def test_an_image_that_comes_twice_is_named(two):
    records, outputs, evaluator = two
    evaluator.process(records, outputs)
    with pytest.raises(EvaluationError, match=r"image 1 of .* twice"):
        evaluator.process(records[1:], outputs[1:])
    evaluator.reset()
    evaluator.process(records[1:], outputs[1:])


def test_a_label_that_cannot_be_read_is_named(two):
    records, outputs, evaluator = two
    file = records[1]["pan_seg_file_name"]
    with open(file, "rb+") as opened:
        opened.truncate(60)
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluator.process(records, outputs)


@pytest.mark.parametrize("label", [-2, NUM_CLASSES * DIVISOR])
def test_a_prediction_outside_the_classes_is_an_error(two, label):
    records, outputs, evaluator = two
    outputs[0]["panoptic_seg"][0][0, 0] = label
    with pytest.raises(EvaluationError, match=f"image 0: predicted panoptic id {label} is neither"):
        evaluator.process(records, outputs)


def test_another_size_is_an_error(two):
    records, outputs, evaluator = two
    outputs[0]["panoptic_seg"] = (outputs[0]["panoptic_seg"][0].T, None)
    with pytest.raises(EvaluationError, match=r"image 0: the prediction is \(18, 14\)"):
        evaluator.process(records, outputs)


def test_an_impossible_figure_is_refused(two):
    records, outputs, evaluator = two
    evaluator.process(records, outputs)
    evaluator._counts[:, 0] += 50  # nothing but a broken program can do this
    with pytest.raises(EvaluationError, match="is no percentage"):
        evaluator.evaluate()


@pytest.mark.parametrize("categories", [{}, {4: 0, 5: 0}])
def test_list_and_map_of_segments_must_agree(categories):
    with pytest.raises(EvaluationError, match=r"segment [45] is in the"):
        number_segments(np.full((2, 2), 4), categories, things=(), label_divisor=DIVISOR)


def test_more_segments_of_a_category_than_it_has_numbers_take_a_larger_divisor():
    ids = np.arange(5, 9).reshape(2, 2)
    categories = dict.fromkeys(range(5, 9), 7)
    labels, divisor = number_segments(ids, categories, things=(), label_divisor=4)
    assert (divisor, labels.tolist()) == (4, [[28, 29], [30, 31]])
    labels, divisor = number_segments(ids, categories, things={7}, label_divisor=4)
    assert (divisor, labels.tolist()) == (5, [[36, 37], [38, 39]])


@pytest.mark.parametrize("divisor", [1_001, 10_000, 2**22, 2**23])
def test_any_divisor_gives_the_same_quality(tmp_path, divisor):
    scenes = [panoptic_scene(seed) for seed in range(4)]
    name = register(scenes, tmp_path)
    outputs, records = outputs_of(scenes), DatasetCatalog.get(name)
    expected = evaluate(StreamingPanopticEvaluator(name), records, outputs)
    vars(MetadataCatalog.get(name))["label_divisor"] = divisor
    for output in outputs:
        categories, numbers = np.divmod(output["panoptic_seg"][0].numpy(), DIVISOR)
        changed = np.where(categories < 0, -1, categories * divisor + numbers)
        output["panoptic_seg"] = (torch.from_numpy(changed), None)
    assert str(evaluate(StreamingPanopticEvaluator(name), records, outputs)) == str(expected)


def test_more_than_a_thousand_objects_of_a_class_are_scored(tmp_path):
    """1,200 objects, all found but the last twelve: as panopticapi counts."""
    ids = np.arange(1, 1201).reshape(30, 40)
    segments = [{"id": i, "category_id": 1, "iscrowd": 0, "area": 1} for i in range(1, 1201)]
    found = np.where(ids <= 1188, 2000 + ids, 0)
    name = register([PanopticScene(ids, segments, ids)], tmp_path)
    listed = [{"id": int(i), "category_id": 1, "isthing": True} for i in found.ravel() if i]
    output = {"panoptic_seg": (torch.from_numpy(found), listed)}
    evaluator = StreamingPanopticEvaluator(name)
    results = evaluate(evaluator, DatasetCatalog.get(name), [output])["panoptic_seg"]
    assert results["SQ"] == 100
    assert results["PQ"] == pytest.approx(100 * 1188 / (1188 + 0.5 * 12))


def test_a_size_that_is_wrong_is_told(two):
    records, outputs, evaluator = two
    outputs[0]["panoptic_seg"] = (torch.zeros(7, 9, dtype=torch.int64), None)
    message = r"image 0: the prediction is \(7, 9\), the ground truth \(14, 18\)"
    with pytest.raises(EvaluationError, match=message):
        evaluator.process(records[:1], outputs[:1])


def test_a_segment_with_the_id_of_void_is_an_error():
    image = np.zeros((2, 2), dtype=np.int64)
    segments = [{"id": 0, "category_id": 0, "iscrowd": 0}]
    with pytest.raises(EvaluationError, match="0 is void"):
        match_segments(image, segments, image, num_classes=1, label_divisor=DIVISOR)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({}, 'image 0: the model\'s output has no "panoptic_seg"'),
        ({"panoptic_seg": None}, 'has no "panoptic_seg"'),
        ({"panoptic_seg": (torch.zeros(14, 18), None)}, "holds torch.float32, not integers"),
    ],
)
def test_outputs_that_are_none_are_named(two, output, message):
    records, _, evaluator = two
    with pytest.raises(EvaluationError, match=message):
        evaluator.process(records[:1], [output])


def test_torn_labels_are_refused_whatever_pillow_was_told(two, monkeypatch):
    records, outputs, evaluator = two
    file = Path(records[0]["pan_seg_file_name"])
    file.write_bytes(file.read_bytes()[:-40])
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(EvaluationError, match=f"cannot read {file}"):
        evaluator.process(records[:1], outputs[:1])


def test_an_unknown_id_of_the_dataset_is_refused(two):
    records, outputs, evaluator = two
    ids = torch.ones_like(outputs[0]["panoptic_seg"][0])
    listed = [{"id": 1, "category_id": 77}]
    with pytest.raises(EvaluationError, match="image 0: segment 1: category -1 is outside"):
        evaluator.process(records[:1], [{"panoptic_seg": (ids, listed)}])

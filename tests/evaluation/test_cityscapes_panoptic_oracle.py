"""The panoptic stream against Cityscapes' own script, by its entry point `evaluatePanoptic`."""

import contextlib
import io
import itertools
import json
import math
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import panopticapi.evaluation
import pytest
import torch
from cityscapesscripts.evaluation import evalPanopticSemanticLabeling as script
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from tests.evaluation.scenes import DIVISOR, PanopticScene, panoptic_scene
from tests.evaluation.test_streaming_datasets import err
from tests.evaluation.truth import evaluate

LABEL_IDS = [label.id for label in EVALUATED]  # by train id
NAMES = [label.name for label in EVALUATED]
CATEGORIES = [
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


def official(truth_json: Path, truth: Path, panoptics: dict[str, np.ndarray], folder: Path) -> dict:
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
    file.write_text(json.dumps({"annotations": annotations, "categories": CATEGORIES}))
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
    return ours, official(file, truth, panoptics, folder)


def assert_same(ours: dict, theirs: dict) -> None:
    """To 1e-12 of 1; a class that the script prints as 0 and leaves out is not a number here."""
    for name in ("PQ", "SQ", "RQ"):
        for group, suffix in GROUPS.items():
            expected = theirs[group][name.lower()]
            assert ours[name + suffix] / 100 == pytest.approx(expected, rel=0, abs=1e-12)
        for category in CATEGORIES:
            value = ours[f"{name}-{category['name']}"]
            expected = theirs["per_class"][category["id"]][name.lower()]
            assert (0 if math.isnan(value) else value / 100) == pytest.approx(
                expected, rel=0, abs=1e-12
            )
    for group, suffix in GROUPS.items():
        counted = [
            category["name"]
            for category in CATEGORIES
            if suffix in ("", "_th" if category["isthing"] else "_st")
        ]
        values = [ours[f"PQ-{name}"] for name in counted]
        assert theirs[group]["n"] == sum(not math.isnan(value) for value in values)


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_the_script(tmp_path, seed):
    scenes = [panoptic_scene(1000 + 30 * seed + number, len(NAMES)) for number in range(30)]
    ours, theirs = ask_both(scenes, tmp_path)
    assert_same(ours, theirs)
    assert 1 < ours["PQ"] < 99
    assert theirs["Things"]["n"] > 2


def test_toy_cityscapes(tmp_path, tmp_path_factory, monkeypatch):
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
    assert_same(ours, official(truth_json, truth, panoptics, tmp_path))
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
        official(file, truth, {record["image_id"]: scene.panoptic}, tmp_path)
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

"""A whole evaluation, of a model that errs: tables, pictures, official metrics, what is refused.

The model is a function of the truth, so that figures are neither 0 nor 100.
"""

import csv
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.core.errors import EvaluationError, message_for_user
from panoptic_dl.core.files import temporary_path
from panoptic_dl.evaluation import official as official_code
from panoptic_dl.evaluation.official import OfficialPanopticEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from panoptic_dl.modes.evaluate import evaluate
from panoptic_dl.run import work
from panoptic_dl.train.train import check_best
from tests.datasets.tiny_custom import JSON, write_own
from tests.datasets.tiny_datasets import write_cityscapes, write_coco
from tests.evaluation.model_outputs import REAL, err
from tests.modes.erring_model import SIZES, Erring, saved
from tests.modes.small_runs import small_coco
from tests.predictions import official

pytestmark = pytest.mark.thorough


def test_a_run_leaves_tables_and_pictures(tmp_path, config, caplog):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    cfg = config(
        "toy_cityscapes",
        *("evaluation.per_class=true", "+published.PQ=63.3", "evaluation.best_and_worst=1"),
        "published_note=trained longer",
    )
    evaluation = build(cfg.task.evaluation)
    summary = evaluation(Erring(cfg), tmp_path)
    assert sorted(evaluation.metric_names) == sorted(summary["metrics"])
    with (tmp_path / "results.csv").open() as file:
        rows = {
            (row["task"], row["metric"], row["class"]): row["value"] for row in csv.DictReader(file)
        }
    assert float(rows["panoptic_seg", "PQ", ""]) == summary["metrics"]["PQ"]
    assert float(rows["sem_seg", "IoU", "road"]) == summary["results"]["sem_seg"]["IoU-road"]
    text = (tmp_path / "results.md").read_text()
    for part in ("| published", "| difference", "Note: trained longer", "## Masks by class"):
        assert part in text
        assert part.lstrip("# ") in caplog.text
    difference = f"{summary['metrics']['PQ'] - 63.3:+.1f}"
    assert difference in text
    files = {file.name for file in (tmp_path / "pictures").iterdir()}
    for name in ("best", "worst", "confusions", "pq_by_class", "iou_by_class"):
        assert f"{name}.png" in files
        assert tmp_path / "pictures" / f"{name}.png" in summary["details"].pictures
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert min(picture.size) > 100


def test_figures_are_there_even_if_pictures_cannot_be_drawn(tmp_path, config, monkeypatch):
    evaluation, model = build(config("toy_coco").task.evaluation), Erring(config("toy_coco"))

    def fail(*args, **kwargs):
        raise OSError("no space for pictures")

    with monkeypatch.context() as patch:
        patch.setattr("panoptic_dl.modes.pictures.save_sheet", fail)
        with pytest.raises(OSError, match="no space for pictures"):
            evaluation(model, tmp_path)
    assert saved(tmp_path)["metrics"]["PQ"] > 5
    assert (tmp_path / "results.md").is_file()
    number = len(model.names)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "pictures").write_text("in the way")
    with pytest.raises(OSError, match="pictures"):
        evaluation(model, tmp_path / "other")
    assert len(model.names) == number  # known before the network runs


def test_a_full_disk_names_the_file(tmp_path, config):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    os.symlink("/dev/full", temporary_path(tmp_path / "results.csv"))
    with pytest.raises(OSError, match="No space left") as raised:
        build(config("toy_coco").task.evaluation)(Erring(config("toy_coco")), tmp_path)
    file = re.escape(str(tmp_path / "results.csv"))
    assert re.match(f"{file}: No space left .*Free some room", message_for_user(raised.value))


def test_results_say_what_was_measured(tmp_path, config):
    evaluation = build(config("toy_coco", "evaluation.charts=false").task.evaluation)
    evaluation(Erring(config("toy_coco")), tmp_path, source={"weights": "mine.pth"})
    assert saved(tmp_path)["measured"] == {"weights": "mine.pth", "scales": [1.0], "flip": False}
    assert "Measured: weights=mine.pth, scales=[1.0], flip=False" in (
        (tmp_path / "results.md").read_text()
    )


def test_what_an_earlier_evaluation_left_is_not_mixed_with_this_one(tmp_path, config):
    first = config("toy_coco", "evaluation.save=[panoptic,instances]")
    build(first.task.evaluation)(Erring(first), tmp_path)
    assert list((tmp_path / "predictions" / "instances").rglob("*.json"))
    assert len(list((tmp_path / "pictures" / "gallery").glob("*_prediction.jpg"))) == 3
    quiet = ["save=panoptic", "charts=false", "best_and_worst=0", "picture_count=0"]
    second = config("toy_coco", *(f"evaluation.{each}" for each in quiet))
    build(second.task.evaluation)(Erring(second), tmp_path)
    assert list((tmp_path / "predictions" / "panoptic").rglob("*.json"))
    assert not list((tmp_path / "predictions" / "instances").rglob("*.json"))
    assert not list(tmp_path.rglob("pictures/*"))
    assert not (tmp_path / "predictions.png").exists()


def without_truth(dataset, root):
    """Overrides of `dataset=` for a split of the images of val alone, and the name of that split.

    The server's truth of them is val's.
    """
    if dataset == "cityscapes":
        base = write_cityscapes(root, val=2) / "cityscapes"
        shutil.copytree(base / "leftImg8bit" / "val", base / "leftImg8bit" / "test")
        return [f"dataset.root={root}"], "test"
    if dataset == "coco":
        base = write_coco(root, val=2) / "coco"
        shutil.copytree(base / "val2017", base / "test2017")
        listed = json.loads((base / "annotations" / "panoptic_val2017.json").read_text())
        file = base / "annotations" / "image_info_test-dev2017.json"
        file.write_text(json.dumps({"images": listed["images"]}))
        return [f"dataset.root={root}"], "test-dev"
    write_own(root, form=dataset, train=1, val=2)
    file = root / JSON[dataset].format("val")
    content = json.loads(file.read_text(encoding="utf-8"))
    (root / JSON[dataset].format("test")).write_text(json.dumps({"images": content["images"]}))
    labels = {"coco_format": "panoptic_val", "cityscapes_format": "gtFine/cityscapes_panoptic_val"}
    for annotation in content["annotations"]:  # panopticapi needs areas
        official_code._complete(annotation, str(root / labels[dataset]))
    file.write_text(json.dumps(content))
    images = {"coco_format": "val", "cityscapes_format": "leftImg8bit/val"}[dataset]
    return [f"dataset.root={root}", f"dataset.test_images={images}"], "test"


@pytest.mark.parametrize("dataset", ["cityscapes", "coco", "coco_format", "cityscapes_format"])
def test_images_without_truth_are_predicted_for_the_servers(tmp_path, dataset, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    overrides, split = without_truth(dataset, tmp_path / "data")
    quiet = ["train.num_workers=0", "evaluation.picture_count=0", "evaluation.charts=false"]
    common = [f"dataset={dataset}", "evaluation.save=[panoptic,instances,semantic]", *quiet]
    known = compose([*common, overrides[0]])
    listed = DatasetCatalog.get(build(known.task.evaluation.dataset))
    records = {Path(record["file_name"]).name: record for record in listed}
    classes = build(known.dataset.classes)
    numbers = len(classes), set(classes.thing_ids)

    def model(batch):
        names = [Path(item["file_name"]).name for item in batch]
        return [err(records[n], *numbers, np.random.default_rng(1)) for n in names]

    figures = build(known.task.evaluation)(model, tmp_path / "val")["metrics"]
    cfg = compose([*common, *overrides, f"dataset.test_split={split}"])
    evaluation = build(cfg.task.evaluation)
    assert evaluation(model, tmp_path / "test") == {}
    assert f"{evaluation.dataset} has no ground truth, so there are no figures" in caplog.text
    assert not (tmp_path / "test" / "results.json").exists()
    val, test = tmp_path / "val" / "predictions", tmp_path / "test" / "predictions"
    files = {f.relative_to(test).as_posix() for f in test.rglob("*") if f.is_file()}
    # Those of val, but for the name of the split.
    assert len(files) == sum(f.is_file() for f in val.rglob("*")) > 4
    (file,) = (test / "panoptic").glob("*.json")
    name = build(known.task.evaluation.dataset)
    of_official = official.quality(name, file)
    for metric in ("PQ", "SQ", "RQ"):
        assert of_official[metric] == pytest.approx(figures[metric], abs=1e-9)
    if dataset == "cityscapes":
        assert file.name == "cityscapes_panoptic_test.json"
        iou = official.cityscapes_iou(name, test / "semantic")["IoU"]
        assert iou == pytest.approx(figures["mIoU"])
        cache = tmp_path / "cache.json"
        average = official.cityscapes_ap(name, test / "instances", cache, monkeypatch)["AP"]
        assert average == pytest.approx(figures["AP"])
    elif dataset == "coco":
        assert file.name == "panoptic_test-dev2017_panoptic-dl_results.json"
        (masks,) = (test / "instances").glob("*.json")
        assert official.coco_ap(name, masks, "segm")[0] == pytest.approx(figures["mask_AP"])


@pytest.mark.parametrize(
    ("arguments", "overrides", "message"),
    [
        (
            {"weights": "w.pth"},
            [],
            r"no ground truth, so there are no figures: evaluation.save=panoptic",
        ),
        (
            {"weights": "w.pth"},
            ["evaluation.official=true"],
            r"no ground truth: leave out evaluation.official",
        ),
        ({"predictions": "x"}, [], r"no ground truth, which predictions=x could be scored with"),
    ],
)
def test_figures_without_truth_are_refused(tmp_path, arguments, overrides, message):
    places, split = without_truth("coco", tmp_path / "data")
    cfg = compose(["dataset=coco", *places, f"dataset.test_split={split}", *overrides])
    arguments = {"weights": None, "predictions": None} | arguments
    with pytest.raises(ValueError, match=message):
        evaluate(
            device="cpu",
            model=None,
            evaluation=build(cfg.task.evaluation),
            run_dir=str(tmp_path),
            **arguments,
        )
    with pytest.raises(EvaluationError, match="no ground truth to measure with"):
        StreamingPanopticEvaluator(build(cfg.dataset.test.panoptic))
    with pytest.raises(ValueError, match="training evaluates has no ground truth"):
        check_best(None, build(cfg.task.evaluation), None)


def test_published_figures_of_another_row_are_not_shown(config, caplog):
    row = "toy_cityscapes_panoptic_xception65_conv"
    published = ["+published.PQ=63.3", f"published_row={row}"]
    own = build(config("toy_cityscapes", *published).task.evaluation)
    assert own.published == {"PQ": 63.3}
    assert "not shown" not in caplog.text
    other = build(config("toy_cityscapes", *published, "head=dsconv").task.evaluation)
    assert other.published is None
    assert f"are those of {row}, and not shown for" in caplog.text


def test_what_is_not_asked_for_is_not_made(tmp_path, config, caplog):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    quiet = ["picture_count=0", "best_and_worst=0", "charts=false", "num_threads=0"]
    cfg = config("toy_coco", *(f"evaluation.{each}" for each in quiet))
    build(cfg.task.evaluation)(Erring(cfg), tmp_path)
    assert {f.name for f in tmp_path.iterdir()} == {"results.json", "results.csv", "results.md"}
    assert "by class" not in caplog.text


def test_official_figures_that_differ_are_an_error(tmp_path, config, monkeypatch):
    from panoptic_dl.evaluation import panoptic

    cfg = config("toy_cityscapes", "evaluation.official=true")
    evaluation = build(cfg.task.evaluation)
    right = panoptic._panoptic_quality
    monkeypatch.setattr(panoptic, "_panoptic_quality", lambda counts: 0.99 * right(counts))
    with pytest.raises(EvaluationError, match=r"metrics differ .*panoptic_seg.PQ"):
        evaluation(Erring(cfg), tmp_path)
    assert (tmp_path / "results.json").is_file()  # nothing is lost


def halve(file: Path) -> str:
    """Make an image or label half as large; return its name."""
    with Image.open(file) as image:
        image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST).save(file)
    return file.name


def edit_json(file: Path, change: Callable[[Any], None]) -> str:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file.name


@pytest.mark.parametrize(
    ("dataset", "task", "pattern", "break_it"),
    [
        ("cityscapes", "panoptic", "*_labelIds.png", halve),
        ("cityscapes", "panoptic", "*_instanceIds.png", halve),
        ("cityscapes", "panoptic", "*_panoptic.png", halve),
        ("cityscapes", "semantic", "*_labelIds.png", halve),
        ("cityscapes", "semantic", "*_leftImg8bit.png", halve),
        ("coco", "panoptic", "panoptic_val2017/*100.png", halve),
        ("coco", "semantic", "panoptic_val2017/*100.png", halve),
        ("coco", "panoptic", "val2017/*100.jpg", halve),
        (
            *("coco", "panoptic", "panoptic_val2017.json"),
            lambda file: edit_json(file, lambda c: c["annotations"].append(c["annotations"][0])),
        ),
        (
            *("coco", "panoptic", "panoptic_val2017.json"),
            lambda file: (
                edit_json(file, lambda c: c["images"][0].update(height=61)),
                "instances_val2017.json: image 100 is",
            )[1],
        ),
    ],
)
def test_faults_of_files_are_known_before_anything_runs(tmp_path, dataset, task, pattern, break_it):
    write = {"cityscapes": write_cityscapes, "coco": write_coco}[dataset]
    root = write(tmp_path, val=2)
    overrides = [f"dataset={dataset}", f"task={task}", f"dataset.root={root}"]
    node = compose([*overrides, "train.num_workers=0"]).task.evaluation
    build(node)
    named = break_it(min(root.rglob(pattern)))
    with pytest.raises(ValueError, match=named):
        build(node)


def test_the_truth_of_a_damaged_file_is_named(tmp_path, config):
    cfg = config("toy_cityscapes", f"dataset.root.root={tmp_path / 'own'}")
    model, evaluation = Erring(cfg), build(cfg.task.evaluation)
    (label, *_) = sorted((tmp_path / "own").rglob("gtFine/val/*/*_gtFine_instanceIds.png"))
    label.write_bytes(label.read_bytes()[:200])
    with pytest.raises(EvaluationError, match=label.name):
        evaluation(model, tmp_path / "run")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.save=masks", "evaluation.save=masks is unknown"),
        ("evaluation.num_threads=-1", "evaluation.num_threads=-1"),
        ("evaluation.best_and_worst=-1", "evaluation.best_and_worst=-1"),
        ("evaluation.scales=[0.5,-1]", r"evaluation.scales=\[0.5, -1\]"),
        ("evaluation.scales=[]", r"evaluation.scales=\[\]"),
        ("evaluation.scales=null", "evaluation.scales=null"),
        ("evaluation.save=true", "evaluation.save=true"),
        ("+published.PG=63.3", "published=.* by the names PQ, SQ"),
        ("+published.PQ=high", "must hold numbers"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(config, override, message):
    with pytest.raises(ValueError, match=message):
        build(config("toy_cityscapes", override).task.evaluation)


def test_saving_instances_of_the_semantic_task_is_refused(config):
    cfg = config("toy_cityscapes", "task=semantic", "evaluation.save=instances")
    with pytest.raises(ValueError, match="task=panoptic"):
        build(cfg.task.evaluation)


EVERYTHING = ["evaluation.save=[panoptic,instances,semantic]", "evaluation.official=true"]


def score(
    evaluation: Any, predictions: Path | None, run_dir: Path, weights: str | None = None
) -> dict[str, Any]:
    """What run.py does with a folder of predictions; the model is not called."""
    return evaluate(
        device="cpu",
        model=torch.nn.Identity(),
        evaluation=evaluation,
        weights=weights,
        predictions=None if predictions is None else str(predictions),
        run_dir=str(run_dir),
    )


@pytest.mark.parametrize("dataset", SIZES)
def test_files_for_servers_score_as_the_model_that_wrote_them(tmp_path, config, dataset, caplog):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    cfg = config(dataset, *EVERYTHING)
    evaluation = build(cfg.task.evaluation)
    summary = evaluation(Erring(cfg), tmp_path / "model")
    assert sorted(evaluation.metric_names) == sorted(summary["metrics"])
    assert "agree with the official evaluators'" in caplog.text
    assert 5 < summary["metrics"]["PQ"] < 95
    scored = score(
        build(config(dataset, "evaluation.official=true", "published={PQ:60}").task.evaluation),
        tmp_path / "model" / "predictions",
        tmp_path / "files",
    )
    assert caplog.text.count("agree with the official evaluators'") == 2
    assert json.dumps(scored["metrics"]) == json.dumps(summary["metrics"])
    assert saved(tmp_path / "files")["results"] == saved(tmp_path / "model")["results"]
    # Whose they are is not known: they are not held against published figures of a network.
    text = (tmp_path / "files" / "results.md").read_text()
    assert "| files " in text
    assert not re.search(r"\b(own|published|difference)\b", text)


def test_what_official_evaluators_refuse_is_known_before_the_training(config, monkeypatch):
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise ValueError("no such script")

    monkeypatch.setattr(OfficialPanopticEvaluator, "__init__", refuse)
    build(config("toy_cityscapes").task.evaluation)
    with pytest.raises(ValueError, match="no such script"):
        build(config("toy_cityscapes", "evaluation.official=true").task.evaluation)


def test_files_of_others_among_predictions_are_named_at_the_start(tmp_path, config):
    evaluation = build(config("toy_coco", "evaluation.save=panoptic").task.evaluation)
    evaluation.check_folder(tmp_path)
    (tmp_path / "predictions" / "panoptic").mkdir(parents=True)
    (tmp_path / "predictions" / "panoptic" / ".DS_Store").touch()
    with pytest.raises(ValueError, match=r"panoptic/\.DS_Store is not a file of predictions"):
        evaluation.check_folder(tmp_path)


def test_predictions_are_not_replaced_by_those_that_are_saved_of_them(tmp_path, config):
    evaluation = build(config("toy_coco", "evaluation.save=panoptic").task.evaluation)
    evaluation(Erring(config("toy_coco")), tmp_path)
    files = sorted((tmp_path / "predictions").rglob("*"))
    with pytest.raises(ValueError, match="choose another run_dir"):
        score(evaluation, tmp_path / "predictions", tmp_path)
    assert sorted((tmp_path / "predictions").rglob("*")) == files


@pytest.mark.parametrize("dataset", SIZES)
def test_semantic_files_alone_score_the_semantic_task(tmp_path, config, dataset):
    cfg = config(dataset, "task=semantic", "evaluation.save=semantic")
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    assert list(summary["metrics"]) == ["mIoU"]
    places = tmp_path / "model" / "predictions", tmp_path / "files"
    scored = score(build(cfg.task.evaluation), *places)
    assert scored["metrics"] == summary["metrics"]


def test_what_files_lack_is_not_scored_and_said(tmp_path, config, caplog):
    cfg = config("toy_cityscapes", "evaluation.save=panoptic")
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    places = tmp_path / "model" / "predictions", tmp_path / "files"
    official = config("toy_cityscapes", "evaluation.official=true")
    scored = score(build(official.task.evaluation), *places)
    assert "Not scored, for there are no such files: instances, semantic" in caplog.text
    assert set(scored["results"]) == {"panoptic_seg"}
    assert scored["metrics"]["PQ"] == summary["metrics"]["PQ"]
    semantic = config("toy_cityscapes", "task=semantic")
    with pytest.raises(ValueError, match="no predictions for"):
        score(build(semantic.task.evaluation), *places)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_real_coco_agrees_with_the_official_evaluators_and_with_its_files(tmp_path):
    overrides = ["dataset=coco", f"dataset.root={REAL}", "train.num_workers=0"]
    cfg = compose([*overrides, *EVERYTHING[1:], "evaluation.save=[panoptic,instances]"])
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    assert summary["num_images"] == 100
    assert 5 < summary["metrics"]["PQ"] < 95
    assert 1 < summary["metrics"]["mask_AP"] < 95
    scored = score(
        build(compose(overrides).task.evaluation),
        tmp_path / "model" / "predictions",
        tmp_path / "files",
    )
    assert json.dumps(scored["metrics"]) == json.dumps(summary["metrics"])
    semantic = compose([*overrides, "task=semantic", "evaluation.official=true"])
    figures = build(semantic.task.evaluation)(Erring(semantic), tmp_path / "semantic")["metrics"]
    assert 5 < figures["mIoU"] < 95


def test_files_are_not_looked_at_several_times(tmp_path, config):
    cfg = config("toy_coco", "evaluation.flip=true")
    with pytest.raises(ValueError, match="leave them out with predictions=FOLDER"):
        score(build(cfg.task.evaluation), tmp_path, tmp_path)


@pytest.mark.parametrize("source", ["predictions", "weights"])
def test_files_have_the_precision_that_they_were_made_in(tmp_path, config, source):
    cfg = config("toy_coco", "evaluation.precision=auto")
    weights = {"weights": str(tmp_path / "model.onnx")} if source == "weights" else {}
    with pytest.raises(ValueError, match=r"evaluation\.precision=auto is of a network in PyTorch"):
        score(build(cfg.task.evaluation), None if weights else tmp_path, tmp_path, **weights)


def test_the_precision_of_this_machine(tmp_path):
    drawn = ["evaluation.charts=false", "evaluation.best_and_worst=0"]
    command = [*small_coco(tmp_path / "coco"), "mode=eval", *drawn]
    metrics = {}
    for precision in ("fp32", "auto", "bf16"):
        (tmp_path / precision).mkdir()
        words = [f"evaluation.precision={precision}", f"run_dir={tmp_path / precision}"]
        metrics[precision] = work("cpu", compose([*command, *words]), ())["metrics"]
    assert metrics["auto"] == pytest.approx(metrics["fp32"], abs=0.1, nan_ok=True)
    measured = saved(tmp_path / "auto")["measured"]
    assert measured["precision"] in ("auto (fp32)", "auto (bf16)")
    assert "precision" not in saved(tmp_path / "fp32")["measured"]
    assert saved(tmp_path / "bf16")["measured"]["precision"] == "bf16"


@pytest.mark.parametrize(
    ("weights", "predictions", "message"),
    [(None, None, "or predictions=FOLDER"), ("w.pth", "folder", "not both")],
)
def test_one_of_weights_and_predictions_is_needed(tmp_path, weights, predictions, message):
    with pytest.raises(ValueError, match=message):
        score(None, predictions, tmp_path, weights=weights)

"""Readers: which files of a folder are predictions, ours and those of others."""

import shutil
from pathlib import Path

import pytest

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.predictions.dataset import KINDS
from panoptic_dl.predictions.folder import PredictionFolder
from tests.prediction_files.datasets import save, toy


def read_all(predicted, folder) -> list[dict]:
    read = PredictionFolder(predicted.name, folder)
    return [read(item) for item in predicted.items]


def alike(before: list[dict], after: list[dict], kind: str) -> None:
    key = {"panoptic": "panoptic_seg", "instances": "instances", "semantic": "sem_seg"}[kind]
    for one, other in zip(before, after, strict=True):
        assert key in other
        assert str(one[key]) == str(other[key])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["in it", "in its folder", "the folder itself"])
def test_names_of_others_in_coco(saved_coco, tmp_path, kind, place):
    before = read_all(saved_coco, tmp_path / "out")
    (file,) = (tmp_path / "out" / kind).glob("*.json")
    folder = tmp_path / "theirs"
    target = folder / kind if place != "in it" else folder
    target.mkdir(parents=True)
    name = file.name.replace("panoptic-dl", "maskformer") if place == "in it" else "whatever.json"
    shutil.copy(file, target / name)
    if kind == "panoptic":
        pictures = target / Path(name).stem if place == "in it" else target  # beside it, too
        shutil.copytree(file.with_suffix(""), pictures, dirs_exist_ok=True)
    given = target if place == "the folder itself" else folder
    assert PredictionFolder(saved_coco.name, given).kinds == (kind,)
    alike(before, read_all(saved_coco, given), kind)


@pytest.mark.parametrize("kind", ["instances", "semantic"])
@pytest.mark.parametrize("deep", [False, True])
def test_names_of_others_in_cityscapes(saved_cityscapes, tmp_path, kind, deep):
    before = read_all(saved_cityscapes, tmp_path / "out")
    folder = tmp_path / "theirs"
    for file in sorted((tmp_path / "out" / kind).rglob("*")):
        if file.is_dir():
            continue
        city = file.name.partition("_")[0] if deep else "."
        name = file.name
        if "masks" not in file.parts:
            name = name.replace("_pred_labelIds", "").replace("_pred", "_leftImg8bit_by_us")
        target = folder / city / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix == ".txt":
            target.write_text(file.read_text().replace("masks/", ""))
        else:
            shutil.copy(file, target)
    assert PredictionFolder(saved_cityscapes.name, folder).kinds == (kind,)
    alike(before, read_all(saved_cityscapes, folder), kind)


def test_cityscapes_panoptic_pictures_are_no_labels(tmp_path):
    """A panoptic result directly in a folder, with pictures in its own or beside it."""
    predicted = toy("toy_cityscapes")
    save(predicted, "panoptic", tmp_path / "out")
    assert PredictionFolder(predicted.name, tmp_path / "out").kinds == ("panoptic",)
    assert PredictionFolder(predicted.name, tmp_path / "out" / "panoptic").kinds == ("panoptic",)
    pictures = tmp_path / "out" / "panoptic" / "cityscapes_panoptic_val"
    for file in pictures.iterdir():
        file.rename(pictures.parent / file.name)
    pictures.rmdir()
    read = PredictionFolder(predicted.name, tmp_path / "out" / "panoptic")
    assert read.kinds == ("panoptic",)
    assert "panoptic_seg" in read(predicted.items[0])


def test_the_folder_above_is_refused(saved_cityscapes, tmp_path):
    """Or its masks would hide its labels, and nothing would be said of them."""
    (tmp_path / "run").mkdir()
    (tmp_path / "out").rename(tmp_path / "run" / "predictions")
    with pytest.raises(EvaluationError, match="no predictions for"):
        PredictionFolder(saved_cityscapes.name, tmp_path / "run")


def test_several_files_that_could_be_meant(saved_coco, tmp_path):
    for kind in KINDS:
        (file,) = (tmp_path / "out" / kind).glob("*.json")
        shutil.copy(file, file.with_name("other.json"))
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*{file.name}.*keep one"):
            PredictionFolder(saved_coco.name, tmp_path / "out")
        file.with_name("other.json").unlink()
        top = tmp_path / "out" / file.name
        shutil.copy(file, top)
        with pytest.raises(EvaluationError, match=f"2 files of {kind} .*keep one"):
            PredictionFolder(saved_coco.name, tmp_path / "out")
        top.unlink()


def test_nothing_is_there(saved_coco, tmp_path):
    with pytest.raises(EvaluationError, match="there is no folder"):
        PredictionFolder(saved_coco.name, tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"looked there for .*instances/\*\.json"):
        PredictionFolder(saved_coco.name, tmp_path / "empty")


def test_nothing_of_cityscapes_is_there(saved_cityscapes, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"semantic/<image id>\*\.png"):
        PredictionFolder(saved_cityscapes.name, tmp_path / "empty")

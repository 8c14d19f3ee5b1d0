"""mode=browse draws the samples that training draws, and replaces its own pictures only."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from panoptic_dl.config import build, compose
from panoptic_dl.core.classes import Classes
from panoptic_dl.modes.browse import _panels, save_sample
from panoptic_dl.run import work
from tests.modes.training_samples import by_start, sample_of

pytestmark = pytest.mark.thorough

SIZES = {"toy_cityscapes": "[128,256]", "toy_coco": "[96,128]"}

RED, GREEN = (200, 30, 30), (30, 200, 30)

CLASSES = Classes(("stuff", "thing"), (RED, GREEN), (1,))

BOTH = [(dataset, task) for dataset in SIZES for task in ("panoptic", "semantic")]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    cache = tmp_path_factory.getbasetemp().parent / "toy"
    return lambda dataset, task="panoptic": [
        *(f"dataset={dataset}", f"task={task}", f"dataset.root.size={SIZES[dataset]}"),
        *("dataset.root.num_train=4", "dataset.root.num_val=2", f"dataset.root.root={cache}"),
        *("dataset.crop_size=[64,64]", "dataset.min_sizes=[64,80]", "backbone=hrnet_tiny"),
    ]


def run(folder, *overrides):
    folder.mkdir(parents=True, exist_ok=True)
    return work("cpu", compose(["mode=browse", *overrides, f"run_dir={folder}"]), ())


@pytest.mark.parametrize(("dataset", "task"), BOTH)
def test_pictures_are_of_the_samples_that_training_draws(tmp_path, toy, dataset, task):
    overrides = toy(dataset, task)
    result = run(tmp_path, *overrides, "browse.count=6")  # more than an epoch
    # Training groups its images otherwise; what happens to each must be the same.
    config = compose([*overrides, "train.batch_size=2", "train.num_workers=0"])
    batches, trained = iter(build(config.task.train_loader)), []
    for _ in range(4):
        trained += next(batches)
    classes = build(config.dataset.classes)
    kept = []
    for sample in trained:
        file = tmp_path / "expected.png"
        save_sample(sample, file, classes, ignore_label=255, image_format="RGB")
        kept.append(file.read_bytes())
    drawn = [Path(file) for file in result["files"]]
    assert drawn == sorted((tmp_path / "browse").iterdir())
    assert [int(file.name.split("_")[0]) for file in drawn] == list(range(6))
    matches = sum(file.read_bytes() in kept for file in drawn)
    assert matches >= 4  # two may wait for another of their shape
    if dataset == "toy_cityscapes":  # all of one shape: the same order
        assert [file.read_bytes() for file in drawn] == kept[:6]
        names = [Path(sample["file_name"]).stem for sample in trained[:6]]
        assert [file.stem.split("_", 1)[1] for file in drawn] == names


@pytest.mark.parametrize("dataset", list(SIZES))
def test_panels_of_real_samples_show_their_tensors(toy, dataset):
    config = compose(["mode=browse", *toy(dataset)])
    classes = build(config.dataset.classes)
    batches = iter(build(config.mode.loader))
    peaks = 0
    for _ in range(4):
        (sample,) = next(batches)
        shown = by_start(sample, classes)
        assert (shown["image"] == sample["image"].permute(1, 2, 0).numpy()).all()
        labels = sample["sem_seg"].numpy()
        assert not shown["labels"][labels == 255].any()
        for label in set(np.unique(labels)) - {255}:
            assert (shown["labels"][labels == label] == classes.colors[label]).all()
        for y, x in sample["center_points"]:
            # Red and green of the peaks; the image beneath is darkened below this.
            assert shown["center heatmap"][round(float(y)), round(float(x))][:2].min() > 200
            peaks += 1
        still = (sample["offset"] == 0).all(0).numpy()
        offsets = shown["offsets"].astype(int)
        assert np.ptp(offsets[still], axis=-1).max() <= 1  # gray
        if not still.all():
            assert offsets[~still].max(axis=-1).min() > 200
        image, lit = shown["image"], shown["weights of the offset loss"]
        learnt = sample["offset_weights"].numpy()[0][..., None]
        assert (lit == image * learnt).all()
        lit, weights = shown["weights of the semantic loss"], sample["sem_seg_weights"].numpy()
        assert (lit[weights == 3] == image[weights == 3]).all()
        ones = (weights == 1) & (labels != 255)
        assert np.allclose(lit[ones], image[ones] * (1 / 3) ** 0.7, atol=1)
        assert not lit[labels == 255].any()
    assert peaks


def test_old_pictures_go_and_other_files_stay(tmp_path, toy):
    run(tmp_path, *toy("toy_cityscapes"), "browse.count=3")
    (tmp_path / "browse" / "mine.txt").touch()
    result = run(tmp_path, *toy("toy_cityscapes"), "browse.count=1", "browse.num_workers=2")
    names = {file.name for file in (tmp_path / "browse").iterdir()}
    assert names == {Path(result["files"][0]).name, "mine.txt"}


def test_an_unknown_label_is_named():
    sample = sample_of()
    sample["sem_seg"][0, 0] = 7
    with pytest.raises(ValueError, match=r"picture\.png has the label 7, and there are 2 classes"):
        _panels(sample, CLASSES, ignore_label=255, image_format="RGB")


def test_a_damaged_image_is_named_and_a_stand_in_said(tmp_path, toy, capsys):
    overrides = toy("toy_cityscapes")
    root = Path(build(compose(overrides).dataset.root))
    shutil.copytree(root, tmp_path / "data" / root.name)
    other = ["dataset=cityscapes", f"dataset.root={tmp_path / 'data' / root.name}"]
    other += overrides[-3:]
    images = sorted((tmp_path / "data").glob("**/leftImg8bit/train/*/*.png"))
    images[0].write_bytes(images[0].read_bytes()[:500])
    with pytest.raises(SystemExit):
        run(tmp_path / "stop", *other)
    assert images[0].name in capsys.readouterr().err
    run(tmp_path / "on", *other, "dataset.max_bad_samples=1", "browse.count=4")
    assert f"stands in for {images[0]}" in (tmp_path / "on" / "log.txt").read_text()

"""A toy Cityscapes: drawn streets in the official layout, its labels made by the official scripts.

The polygons are the ground truth, in painter's order, with the labels of Cityscapes, groups and
void regions too. cityscapesscripts turns them into labelIds, labelTrainIds, instanceIds, colors
and the panoptic format.
"""

import contextlib
import io
import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_dl.datasets.storage import map_samples, store_once
from panoptic_dl.datasets.toy.scene import Scene, check_parameters, sample_random

# Counted up whenever the pictures or labels of the same parameters change.
VERSION = 3

ALWAYS = ("road", "sidewalk", "building", "vegetation", "terrain", "sky", "person", "car")
OPTIONAL = ("wall", "fence", "pole", "traffic light", "traffic sign", "rider", "truck", "bus",
            "train", "motorcycle", "bicycle")  # fmt: skip
# What a small network can learn in minutes: no traffic lights, walls, trucks, trams, motorcycles.
DEFAULT_CLASSES = (*ALWAYS, "fence", "pole", "traffic sign", "rider", "bus", "bicycle")
ALL_CLASSES = (*ALWAYS, *OPTIONAL)
THINGS = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")

CITIES = {"train": ("lindenau", "marktheim", "seefeld"), "val": ("neustadt",)}


def toy_cityscapes(
    *,
    root: str,
    num_train: int = 200,
    num_val: int = 30,
    size: tuple[int, int] = (256, 512),
    seed: int = 0,
    classes: Sequence[str] = DEFAULT_CLASSES,
    num_workers: int | None = None,
) -> str:
    """Makes a toy Cityscapes on first use and returns the folder that holds its `cityscapes/`.

    The folder takes the place of DETECTRON2_DATASETS: below it lie `cityscapes/leftImg8bit` and
    `cityscapes/gtFine` with everything Detectron2's loaders and the official evaluators read. A
    sample depends on (seed, split, index, size, classes) only, not on how many there are or who
    drew them.

    Args:
        root: where generated data lies, e.g. "./datasets"; gets a folder named after the
            parameters.
        num_train, num_val: images of each split.
        size: (H, W) in pixels, both at least 64; W of about 2 H looks best.
        seed: another seed, other streets.
        classes: Cityscapes names of the classes that may occur, of `ALL_CLASSES`; those of
            `ALWAYS` must be among them.
        num_workers: processes; default one per core.
    Returns:
        Absolute path.
    Raises:
        ValueError: a parameter is out of range.
        DatasetError: (a ValueError) root cannot be written.
    """
    parameters = check_parameters(VERSION, num_train, num_val, size, 64, seed)
    chosen = [name for name in ALL_CLASSES if name in set(classes)]

    def make(folder: Path) -> None:
        base = folder / "cityscapes"
        jobs: list[tuple[Any, ...]] = []
        for split, count in (("train", num_train), ("val", num_val)):
            for city in CITIES[split]:
                (base / "leftImg8bit" / split / city).mkdir(parents=True)
                (base / "gtFine" / split / city).mkdir(parents=True)
            for index in range(count):
                jobs.append((str(base), split, index, parameters["size"], seed, chosen))
        map_samples(_write_sample, jobs, "toy Cityscapes", num_workers)
        _convert_to_panoptic(base)

    parameters["classes"] = chosen
    return str(store_once(root, f"toy_cityscapes_v{VERSION}", parameters, make))


def compose_street(
    chance: random.Random, size: tuple[int, int], classes: Sequence[str] = DEFAULT_CLASSES
) -> Scene:
    """A street of `size` (H, W) with these of the evaluated classes."""
    allowed = {*classes, "ego vehicle", "out of roi", "static", "dynamic"}
    return Scene("street", chance, size, things=THINGS, classes=allowed, void="unlabeled")


def _write_sample(
    base: str, split: str, index: int, size: Sequence[int], seed: int, classes: Sequence[str]
) -> None:
    """Draws one street and writes its image, polygons and label images."""
    scene = compose_street(sample_random(seed, split, index), (size[0], size[1]), classes)
    city = CITIES[split][index % len(CITIES[split])]
    stem = f"{city}_{index:06d}_000019"
    file = Path(base, "leftImg8bit", split, city, f"{stem}_leftImg8bit.png")
    scene.photograph().save(file, compress_level=1)
    outlines = [(part.label, outline) for part in scene.parts for outline in part.outlines]
    objects = [{"label": label, "polygon": outline} for label, outline in outlines]
    annotation = {"imgHeight": size[0], "imgWidth": size[1], "objects": objects}
    _write_labels(Path(base, "gtFine", split, city), stem, annotation)


def _write_labels(folder: Path, stem: str, annotation: dict[str, Any]) -> None:
    """Writes polygons.json and what the official functions make of it into a city's folder."""
    from cityscapesscripts.helpers.annotation import Annotation
    from cityscapesscripts.preparation.json2instanceImg import createInstanceImage
    from cityscapesscripts.preparation.json2labelImg import createLabelImage

    text = json.dumps(annotation)
    (folder / f"{stem}_gtFine_polygons.json").write_text(text)
    official = Annotation()
    official.fromJsonText(text)
    for encoding, name in (("ids", "labelIds"), ("trainIds", "labelTrainIds"), ("color", "color")):
        labels: Image.Image = createLabelImage(official, encoding)
        labels.save(folder / f"{stem}_gtFine_{name}.png", compress_level=1)
    # json2instanceImg's own saving fails with Pillow >= 13, which writes no 32-bit PNG.
    instances: Image.Image = createInstanceImage(official, "ids")
    instances.convert("I;16").save(folder / f"{stem}_gtFine_instanceIds.png", compress_level=1)


def _convert_to_panoptic(base: Path) -> None:
    """Makes the panoptic PNGs and JSONs of both splits the official way, without its chatter."""
    from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic

    root = os.fspath(base / "gtFine")
    with contextlib.redirect_stdout(io.StringIO()):
        # Named splits: the default includes "test", and its absence ends the process.
        convert2panoptic(root, root, useTrainId=False, setNames=["train", "val"])

"""mode=browse: pictures of training samples as the network gets them: image, labels, targets.

H W pixels, K classes.
"""

import contextlib
import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.utils import comm
from numpy.typing import NDArray

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.files import file_name_text
from panoptic_dl.core.parallel import Progress
from panoptic_dl.launch.session import accept
from panoptic_dl.train.trainer import Loader
from panoptic_dl.visualize.overlays import draw_centers, draw_offsets
from panoptic_dl.visualize.sheets import save_sheet
from panoptic_dl.visualize.style import Color

logger = logging.getLogger(__name__)

Picture = NDArray[np.uint8]  # (H, W, 3) RGB

OURS = re.compile(r"\d{4,}_.*\.png")
LEFT_OUT = (150, 20, 30)
LARGE_WEIGHT = 3.0  # the least weight that shows the image in full
COLUMNS, NARROWEST = 3, 480  # of the sheet; pixels of a column
LARGEST = {2: (960, 720), 3: (640, 640)}  # width and height of a panel in pixels, by columns
LONGEST_NAME = 60  # letters; long names lose their beginning


def browse(
    *,
    device: str,
    loader: Loader,
    classes: Classes,
    ignore_label: int,
    image_format: str,
    run_dir: str,
    count: int,
) -> dict[str, Any]:
    """Draw the first `count` training samples: `run_dir/browse/<number>_<name>.png` each.

    Pictures that an earlier call left there are deleted. `loader` gives batches of one sample,
    without end, in the order of training. Returns `metrics` (the number of pictures) and `files`.

    Raises ValueError for several processes, or a label that is none of the classes.
    """
    if comm.get_world_size() > 1:
        raise ValueError("mode=browse draws in one process: drop launch.num_gpus and the like")
    accept()
    folder = Path(run_dir) / "browse"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if OURS.fullmatch(old.name):
            old.unlink()
    files = []
    with Progress("drawn", count) as progress, contextlib.closing(iter(loader)) as batches:  # type: ignore[type-var]
        samples = itertools.chain.from_iterable(batches)
        for number, sample in enumerate(itertools.islice(samples, count)):
            for bad, error in loader.take_bad_samples().items():
                logger.warning("%s stands in for %s: %s", sample["file_name"], bad, error)
            file = folder / f"{number:04d}_{file_name_text(Path(sample['file_name']).stem)}.png"
            save_sample(sample, file, classes, ignore_label=ignore_label, image_format=image_format)
            files.append(str(file))
            progress.add(1)
    logger.info("Saved %d pictures in %s", len(files), os.path.relpath(folder))
    return {"metrics": {"pictures": len(files)}, "files": files}


def save_sample(
    sample: dict[str, Any], file: Path, classes: Classes, *, ignore_label: int, image_format: str
) -> None:
    """Write a PNG of a sample's `_panels`, with a caption and the colors of its largest classes.

    The sample is of the training mappers; "file_name", "height" and "width" are those of the
    image's file.
    """
    pictures = _panels(sample, classes, ignore_label=ignore_label, image_format=image_format)
    columns = min(COLUMNS, len(pictures))
    cells = list(pictures.values())
    (high, wide), (width, height) = cells[0].shape[:2], LARGEST[columns]
    save_sheet(
        [cells[i : i + columns] for i in range(0, len(cells), columns)],
        list(pictures),
        file,
        title=_caption(sample),
        legend=_legend(sample["sem_seg"].numpy(), classes),
        cell_width=max(NARROWEST, min(width, round(wide * height / high))),
    )


def _panels(
    sample: dict[str, Any], classes: Classes, *, ignore_label: int, image_format: str
) -> dict[str, Picture]:
    """Pictures (H, W, 3) by what they show: the image and labels; with centers four more.

    Args:
        sample: "image" (3, H, W) uint8 and "sem_seg" (H, W); of the panoptic task also
            "sem_seg_weights" (H, W), "center" (H, W), "center_weights" (1, H, W), "offset"
            (2, H, W) in pixels, y before x, "offset_weights" (1, H, W).
        ignore_label: of pixels without a label.
        image_format: channel order of the image, RGB or BGR.
    """
    image = sample["image"].permute(1, 2, 0).numpy()
    image = np.ascontiguousarray(image[..., ::-1] if image_format == "BGR" else image)
    labels = sample["sem_seg"].numpy()
    ignored = labels == ignore_label
    unknown = labels[~ignored & ((labels < 0) | (labels >= len(classes.names)))]
    if unknown.size:
        raise ValueError(
            f"{sample['file_name']} has the label {unknown[0]}, and there are {len(classes.names)} "
            "classes: dataset.num_classes and dataset.classes do not agree"
        )
    colors = np.array([*classes.colors, (0, 0, 0)], np.uint8)
    found = {
        "image": image,
        "labels (black: ignored)": colors[np.where(ignored, len(classes.names), labels)],
    }
    if "center" not in sample:
        return found
    center = sample["center"].numpy()
    red = np.where(sample["center_weights"][0] == 0, 0.5 * (1 - center), 0)[..., None]
    heatmap = draw_centers(image, center) * (1 - red) + np.array(LEFT_OUT) * red
    offset = sample["offset"].numpy()
    longest = float(np.hypot(*offset).max())
    weights = np.where(ignored, 0, sample["sem_seg_weights"].numpy())
    learnt = sample["offset_weights"][0].numpy()
    return found | {
        f"weights of the semantic loss, dark to bright: {_list_values(weights)}": _lit(
            image, weights, max(LARGE_WEIGHT, float(weights.max()))
        ),
        "center heatmap (red: left out of the loss)": heatmap.astype(np.uint8),
        f"offsets, up to {longest:.0f} pixels": draw_offsets(image, offset, offset.any(axis=0)),
        f"weights of the offset loss, dark to bright: {_list_values(learnt)}": _lit(image, learnt),
    }


def _lit(image: Picture, weights: NDArray[np.floating], full: float = 1.0) -> Picture:
    """The image as bright as its weights: black for 0, itself for the weight `full`."""
    return (image * (weights / full)[..., None] ** 0.7).round().astype(np.uint8)


def _list_values(weights: NDArray[np.floating]) -> str:
    return ", ".join(f"{value:g}" for value in np.unique(weights)[:6])


def _caption(sample: dict[str, Any]) -> str:
    """The file, sizes and instances."""
    name, (high, wide) = Path(sample["file_name"]).name, sample["image"].shape[1:]
    if len(name) > LONGEST_NAME:
        name = f"...{name[-LONGEST_NAME:]}"
    words = [name, f"{high} x {wide} pixels from a file of {sample['height']} x {sample['width']}"]
    if "center_points" in sample:
        number = len(sample["center_points"])
        words.append(f"{number} instance{'' if number == 1 else 's'}")
    return "  ·  ".join(words)


def _legend(labels: NDArray[np.integer], classes: Classes) -> list[tuple[str, Color]]:
    """Names and colors of the classes, those with most pixels first."""
    known = labels[(labels >= 0) & (labels < len(classes.names))]
    areas = np.bincount(known, minlength=len(classes.names))
    largest = np.argsort(-areas, kind="stable")[: np.count_nonzero(areas)]
    return [(classes.names[i].removesuffix("-merged"), classes.colors[i]) for i in largest]

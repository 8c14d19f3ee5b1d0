"""The truth of COCO's box and mask AP: an instances file, taken apart by image.

Everything here is read only, so that several threads may compare images at once; pycocotools' own
index is changed by each evaluation.

Shapes: H W pixels.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from panoptic_dl.evaluation.figures import EvaluationError


@dataclass(frozen=True, slots=True)
class TrueInstance:
    """One annotation.

    Attributes:
        id: of the annotation. As in the official script, a match with number 0 counts as none.
        category: counted from 0 among the things.
        crowd: a region of many, which is neither found nor missed.
        area: pixels, as the file says; it decides between small, medium and large.
        box: x, y, width, height in pixels.
        segmentation: polygons, or a run-length encoding with `size` and `counts`.
    """

    id: int
    category: int
    crowd: bool
    area: float
    box: list[float]
    segmentation: list[np.ndarray] | dict[str, Any]


@dataclass(frozen=True, slots=True)
class ImageTruth:
    """One image: (H, W) and its instances, in the order of the file; often there are none."""

    size: tuple[int, int]
    instances: list[TrueInstance]


def read_instances(file: str, categories: Mapping[int, int]) -> dict[Any, ImageTruth]:
    """Read an instances file: truth by the id of the image.

    Args:
        file: JSON in COCO's format for object detection.
        categories: from the file's category ids to 0..K-1.

    Raises:
        EvaluationError: the file cannot be read, its categories are others, two annotations have
            the same id, or one is of an image or a category that the file does not list.
    """
    try:
        content = json.loads(Path(file).read_bytes())
        images = {
            image["id"]: ImageTruth((image["height"], image["width"]), [])
            for image in content["images"]
        }
        listed = {category["id"] for category in content["categories"]}
        annotations = [(a["image_id"], a["category_id"], a) for a in content["annotations"]]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(file, repr(error)) from error
    if listed != set(categories):
        odd = sorted(listed ^ set(categories))[0]
        where = "the file" if odd in listed else "the dataset's metadata"
        raise EvaluationError(
            f"the categories of {file} are not those of the dataset: {odd} is in {where} alone"
        )
    seen = set()
    for image, category, annotation in annotations:
        number = annotation.get("id")
        for what, known, value in (("image", images, image), ("category", categories, category)):
            if value not in known:
                raise EvaluationError(
                    f"annotation {number} of {file} is of {what} {value}, which it does not list"
                )
        if number in seen:
            raise EvaluationError(f"{file} has two annotations with the id {number}")
        seen.add(number)
        try:
            instance = TrueInstance(
                annotation["id"],
                categories[category],
                bool(annotation["iscrowd"]),
                annotation["area"],
                annotation["bbox"],
                _compact(annotation["segmentation"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(file, f"annotation {number}: {error!r}") from error
        images[image].instances.append(instance)
    return images


def _unreadable(file: str, reason: str) -> EvaluationError:
    return EvaluationError(
        f"{file} is no readable COCO instances file ({reason}); fetch or prepare it again"
    )


def _compact(segmentation: Any) -> list[np.ndarray] | dict[str, Any]:
    """Numbers in arrays, an eighth of lists of them; the compressed text of an encoding stays."""
    if isinstance(segmentation, list):
        return [np.array(polygon, dtype=np.float64) for polygon in segmentation]
    counts = segmentation["counts"]
    if isinstance(counts, list):
        counts = np.array(counts, dtype=np.uint32)
    return {"size": segmentation["size"], "counts": counts}

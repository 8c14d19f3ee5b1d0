"""Images made by code, to ask our evaluators and the official ones the same question.

Shapes: H W pixels, K classes.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from detectron2.structures import Instances
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED

HEIGHT, WIDTH = 14, 18
DIVISOR = 1000


@dataclass
class PanopticScene:
    """A truth and a prediction: (H, W) ids with segments, (H, W) panoptic map with -1 for void."""

    truth: np.ndarray
    segments: list[dict]
    panoptic: np.ndarray


def panoptic_scene(seed: int, num_classes: int = 6) -> PanopticScene:
    """Draw one; seeds give crowds, void, unlisted ids, single pixels, fragments, misses."""
    draw = np.random.default_rng(seed)
    number = int(draw.integers(0, 9))
    ids = 1 + draw.choice(256**3 - 1, number, replace=False)
    if number:
        ids[draw.integers(number)] = draw.choice([1, 255, 256, 65536, 256**3 - 1])
        ids = np.unique(ids)
        draw.shuffle(ids)
    # The last two classes are never in the truth, only predicted.
    categories = draw.integers(0, num_classes - 2, len(ids))
    truth = np.zeros((HEIGHT, WIDTH), dtype=np.int64)
    for segment_id in ids:
        paint(truth, segment_id, draw)
    if draw.random() < 0.2:
        paint(truth, 77_777 if 77_777 not in ids else 0, draw)  # listed nowhere
    segments = [
        {
            "id": int(segment_id),
            "category_id": int(category),
            "iscrowd": int(draw.random() < 0.35),
            "area": int((truth == segment_id).sum()),
        }
        for segment_id, category in zip(ids, categories, strict=True)
    ]
    panoptic = np.full(truth.shape, -1, dtype=np.int64)
    if draw.random() < 0.1:
        return PanopticScene(truth, segments, panoptic)  # nothing predicted
    for number, segment in enumerate(segments):
        if draw.random() < 0.8:
            keep = (truth == segment["id"]) & (
                draw.random(truth.shape) < draw.choice([0.5, 0.9, 1])
            )
            category = segment["category_id"]
            if draw.random() < 0.15:
                category = draw.integers(0, num_classes)
            panoptic[keep] = category * DIVISOR + number * (draw.random() < 0.7)
    for _ in range(draw.integers(0, 4)):
        paint(panoptic, draw.integers(0, num_classes) * DIVISOR + draw.integers(0, 999), draw)
    if draw.random() < 0.1:  # a segment in each pixel
        panoptic[:] = np.arange(panoptic.size).reshape(panoptic.shape) + DIVISOR
    if draw.random() < 0.2:
        paint(panoptic, -1, draw)
    return PanopticScene(truth, segments, panoptic)


def paint(image: np.ndarray, value: int, draw: np.random.Generator) -> None:
    """Put a rectangle, a pixel or a scattering of pixels into an image."""
    kind = draw.integers(0, 4)
    y, x = draw.integers(0, image.shape[0]), draw.integers(0, image.shape[1])
    if kind == 0:
        image[y, x] = value
    elif kind == 1:
        image[draw.random(image.shape) < 0.3] = value
    else:
        height, width = draw.integers(2, image.shape[0]), draw.integers(2, image.shape[1])
        image[y : y + height, x : x + width] = value


def write_panoptic(scene: PanopticScene, folder: Path, name: str) -> None:
    """Write truth and prediction (ids + 1, 0 for void) as PNG files."""
    for kind, ids in (("truth", scene.truth), ("prediction", scene.panoptic + 1)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        Image.fromarray(id2rgb(ids)).save(folder / kind / f"{name}.png")


STREET_HEIGHT, STREET_WIDTH = 40, 56
STUFF_IDS = [0, 1, 4, 5, 7, 8, 9, 11, 14, 17, 21, 23]  # label ids; some are ignored
THING_IDS = [24, 25, 26, 28, 29, 33]  # 29, caravan, is ignored; others never occur


def write_street_labels(folder: Path, seed: int) -> str:
    """Write labelIds and instanceIds of Cityscapes below a folder; return the image's id.

    Holds stuff in fragments, ignored labels, groups of things, instances of one pixel, of ignored
    labels, and just below, at and above 100 pixels; sometimes no thing at all.
    """
    draw = np.random.default_rng(seed)
    numbers = np.full((STREET_HEIGHT, STREET_WIDTH), draw.choice(STUFF_IDS), dtype=np.int32)
    for label in draw.choice(STUFF_IDS, 5):
        paint(numbers, label, draw)
    things = draw.integers(0, 9) if draw.random() < 0.9 else 0
    classes = draw.choice(THING_IDS, draw.integers(1, 4))
    for number in range(things):
        label = int(draw.choice(classes))
        value = label if draw.random() < 0.2 else label * 1000 + number
        if draw.random() < 0.4:  # a size near the least that counts
            height, width = [(9, 11), (10, 10), (10, 11), (20, 10)][draw.integers(4)]
            y, x = draw.integers(0, STREET_HEIGHT - height), draw.integers(0, STREET_WIDTH - width)
            numbers[y : y + height, x : x + width] = value
        else:
            paint(numbers, value, draw)
    image = f"city{seed % 2}_{seed:012d}_000019"
    place = folder / f"city{seed % 2}"
    place.mkdir(parents=True, exist_ok=True)
    labels = np.where(numbers < 1000, numbers, numbers // 1000).astype(np.uint8)
    Image.fromarray(labels).save(place / f"{image}_gtFine_labelIds.png")
    Image.fromarray(numbers.astype(np.uint16)).save(place / f"{image}_gtFine_instanceIds.png")
    return image


def semantic_scores(folder: Path, image: str, seed: int) -> torch.Tensor:
    """Scores (19, H, W) that are often right, and see traffic lights and trains where none are."""
    draw = np.random.default_rng(seed + 1)
    (file,) = folder.glob(f"*/{image}_gtFine_labelIds.png")
    truth = np.array(Image.open(file))
    ids = [label.id for label in EVALUATED]
    classes = np.zeros(truth.shape, dtype=np.int64)
    for column, label in enumerate(ids):
        classes[truth == label] = column
    for column in (6, 16, *draw.integers(0, 19, 3)):
        if draw.random() < 0.6:
            paint(classes, column, draw)
    return torch.nn.functional.one_hot(torch.from_numpy(classes), 19).permute(2, 0, 1).float()


def instance_predictions(folder: Path, image: str, seed: int) -> Instances:
    """Instances that are often right; twice found, scattered, on groups and void, empty, tied."""
    draw = np.random.default_rng(seed + 2)
    (file,) = folder.glob(f"*/{image}_gtFine_instanceIds.png")
    truth = np.array(Image.open(file)).astype(np.int64)
    train_ids = {label.id: label.trainId for label in EVALUATED}
    masks, classes = [], []
    for value in np.unique(truth):
        label = value if value < 1000 else value // 1000
        if label not in THING_IDS and draw.random() < 0.7:
            continue
        for _ in range(draw.integers(0, 4)):
            mask = (truth == value) & (draw.random(truth.shape) < draw.choice([0.55, 0.8, 0.95, 1]))
            if draw.random() < 0.3:
                mask = np.roll(mask, draw.integers(0, 3), axis=1)
            if draw.random() < 0.2:
                mask |= truth == draw.choice(np.unique(truth))
            masks.append(mask)
            classes.append(train_ids.get(int(label), 13))
    for _ in range(draw.integers(0, 5)):
        mask = np.zeros(truth.shape, dtype=np.int64)
        paint(mask, int(draw.random() < 0.8), draw)  # or empty
        masks.append(mask > 0)
        classes.append(int(draw.choice([0, 11, 13, 15, 18])))  # road is no thing; no bus exists
    if draw.random() < 0.1:
        masks, classes = [], []
    scores = draw.choice([draw.random(), 0.25, 0.5, 0.5, 0.9, 1.3], len(masks))
    return Instances(
        truth.shape,
        pred_masks=torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *truth.shape)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
        scores=torch.from_numpy(scores.astype(np.float32)),
    )

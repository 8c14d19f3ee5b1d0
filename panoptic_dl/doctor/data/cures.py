"""What mends a file, by dataset and by who made the file."""

from collections.abc import Callable
from enum import Enum

from ..patient import Patient


class Made(Enum):
    """Who made a file."""

    IMAGES = "downloaded images"
    LABELS = "downloaded labels"
    PREPARED = "labels that our script makes of downloaded ones"


Cure = Callable[[str, str], str]  # of root and split


def _cityscapes_prepared(root: str, split: str) -> str:
    base = f"{root}/cityscapes/gtFine"
    return (
        f"rm -r {base}/cityscapes_panoptic_{split}* {base}/{split}/*/*_labelTrainIds.png; "
        f"python scripts/prepare_cityscapes.py {root}"
    )


CURES: dict[tuple[str, Made], Cure] = {
    ("cityscapes", Made.IMAGES): lambda root, split: (
        f"unzip -o leftImg8bit_trainvaltest.zip 'leftImg8bit/{split}/*' -d {root}/cityscapes "
        "(of cityscapes-dataset.com)"
    ),
    ("cityscapes", Made.LABELS): lambda root, split: (
        f"unzip -o gtFine_trainvaltest.zip 'gtFine/{split}/*' -d {root}/cityscapes "
        f"(of cityscapes-dataset.com); {_cityscapes_prepared(root, split)}"
    ),
    ("cityscapes", Made.PREPARED): _cityscapes_prepared,
    ("coco", Made.IMAGES): lambda root, split: (
        f"unzip -o {split}2017.zip -d {root}/coco (of cocodataset.org)"
    ),
    ("coco", Made.LABELS): lambda root, split: (
        f"unzip -o panoptic_annotations_trainval2017.zip -d {root}/coco (of cocodataset.org); "
        f"unzip -o {root}/coco/annotations/panoptic_{split}2017.zip -d {root}/coco"
    ),
}


def cure(patient: Patient, split: str, made: Made) -> str:
    """A command where the dataset is known, else what to do with the files that are named."""
    dataset = patient.choice["dataset"]
    if dataset.startswith("toy_"):
        return f"rm -r {patient.root} (it is drawn again on the next run)"
    known = CURES.get((dataset, made)) or CURES.get((dataset, Made.LABELS))
    if known is not None:
        return known(patient.root, split)
    return (
        "mend the files that are named (all of them are in doctor.json), or take them out of the "
        "dataset, then run this again"
    )

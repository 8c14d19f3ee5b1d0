"""Make COCO 2017 panoptic ready: unpack its archives, count.

    python scripts/prepare_coco.py ROOT [--workers N] [--check] [--packed]

ROOT is the folder that holds coco/ (DETECTRON2_DATASETS), or coco/ itself. Put train2017.zip,
val2017.zip, annotations_trainval2017.zip and panoptic_annotations_trainval2017.zip into it, packed.
What exists is kept, so an interrupted run continues where it stopped. With --packed images and
PNGs stay in their archives, where they are read: only annotations/ is made, and in it the archives
of PNGs, which come out of panoptic_annotations_trainval2017.zip.
"""

import re
from dataclasses import replace
from pathlib import Path

from panoptic_dl.core.archives import is_folder
from panoptic_dl.core.errors import DatasetError, EvaluationError
from panoptic_dl.core.headers import check_records, require_own_ids
from panoptic_dl.core.parallel import Say
from preparation import (
    Archive,
    OfficialArchive,
    dataset_folder,
    describe,
    find_archives,
    lock_folder,
    missing_folder,
    run_command,
    unpack,
)

TITLE = "COCO 2017"
OFFICIAL_COUNTS = {"train": 118287, "val": 5000}  # images
ADDRESS = "http://images.cocodataset.org"
ARCHIVES = (
    OfficialArchive("train2017.zip", 19_336_861_798, re.compile(r"train2017/\d{12}\.jpg")),
    OfficialArchive("val2017.zip", 815_585_330, re.compile(r"val2017/\d{12}\.jpg")),
    OfficialArchive(
        "annotations_trainval2017.zip",
        252_907_541,
        re.compile(r"annotations/(instances|captions|person_keypoints)_(train|val)2017\.json"),
    ),
    OfficialArchive(
        "panoptic_annotations_trainval2017.zip",
        860_725_834,
        re.compile(r"annotations/panoptic_(train|val)2017\.(json|zip)"),
    ),
)
# What the last of them brings in annotations/: archives of the label images.
NESTED = tuple(
    OfficialArchive(
        f"panoptic_{split}2017.zip",
        0,
        re.compile(rf"panoptic_{split}2017/\d{{12}}\.png"),
        remedy="Delete it and run this again: it is in panoptic_annotations_trainval2017.zip",
    )
    for split in ("train", "val")
)
TRAIN_IMAGES, VAL_IMAGES, ANNOTATIONS, PANOPTIC = ARCHIVES


def prepare_coco(
    root: str | Path, *, num_workers: int = 1, packed: bool = False, say: Say = print
) -> None:
    """Unpack the archives where that is not done yet, and check that all is there.

    Archives are looked for in the dataset's folder and in the one that holds it. Those of the label
    images come out of `panoptic_annotations_trainval2017.zip`, into `annotations/`.

    Args:
        root: folder that holds `coco/` (`DETECTRON2_DATASETS`), or that folder itself.
        num_workers: processes that share the work.
        packed: leave images and PNGs in their archives.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: archives, folders or files are missing or damaged; the disk is full; another
            process is at work there.
    """
    base = dataset_folder(root, "coco")
    archives = [
        _without_what_is_done(archive, base)
        for archive in find_archives([base, base.parent], ARCHIVES, say)
        if not packed or archive.official in (ANNOTATIONS, PANOPTIC)
    ]
    if not archives and not base.is_dir():
        raise _missing(base, "train2017")
    with lock_folder(base):
        unpack(archives, base, num_workers=num_workers, say=say)
        places = [base / "annotations", base, base.parent]
        nested = [] if packed else find_archives(places, NESTED, say)
        unpack(nested, base, num_workers=num_workers, say=say)
    check_coco(root, say=say)


def check_coco(root: str | Path, *, say: Say = print) -> None:
    """Compare folders with annotations, and say how many images are there; nothing is changed.

    Raises:
        DatasetError: something is missing that training and evaluation need.
    """
    from detectron2.data import DatasetCatalog  # takes seconds: only where it is needed

    from panoptic_dl.datasets.coco import coco_panoptic, folder_of
    from panoptic_dl.datasets.registry import list_files
    from panoptic_dl.evaluation.coco_instances import read_instances

    base = dataset_folder(root, "coco")
    for split in OFFICIAL_COUNTS:
        for name in (f"{split}2017", f"panoptic_{split}2017"):
            if not is_folder(folder_of(base, name)):
                raise _missing(base, name)
    for split, official in OFFICIAL_COUNTS.items():
        name = coco_panoptic(root=str(base.parent), split=split, prefix="prepared_")
        images = DatasetCatalog.get(name)
        check_records(split, images)
        require_own_ids(str(base / f"annotations/panoptic_{split}2017.json"), images)
        if split == "val":
            try:
                read_instances(name, images)
            except EvaluationError as error:
                remedy = f"put {ANNOTATIONS.name} into {base} and run this again, without --check"
                raise DatasetError(f"{TITLE}: {error}; for all of COCO: {remedy}") from error
        more = len(list_files(folder_of(base, f"{split}2017"), ".jpg")) - len(images)
        note = f" ({more} more images are without labels, and unused)" if more else ""
        say(f"{split}: {describe(len(images), official)}{note}")
    say(f"ready: dataset=coco dataset.root={base.parent}")


def _without_what_is_done(archive: Archive, base: Path) -> Archive:
    """Leave out archives of label images that are all there: they may have been deleted since."""
    done = {
        f"annotations/panoptic_{split}2017.zip"
        for split, official in OFFICIAL_COUNTS.items()
        if len(list((base / f"panoptic_{split}2017").glob("[!.]*.png"))) == official
    }
    members = tuple(info for info in archive.members if info.filename not in done)
    return replace(archive, members=members)


def _missing(base: Path, name: str) -> DatasetError:
    """Say what to download for a folder that is not there."""
    archive = {"train2017": TRAIN_IMAGES, "val2017": VAL_IMAGES}.get(name, PANOPTIC)
    officials = [archive] if base.is_dir() else ARCHIVES
    lines = []
    for official in officials:
        folder = "annotations" if "annotations" in official.name else "zips"
        lines.append(f"  wget -c -P {base.parent} {ADDRESS}/{folder}/{official.name}\n")
    how = "They are free; see cocodataset.org for the terms of use. For instance:\n\n"
    return missing_folder(TITLE, base / name, officials, how + "".join(lines))


if __name__ == "__main__":
    run_command(str(__doc__), prepare_coco, check_coco, "coco", packed=True)

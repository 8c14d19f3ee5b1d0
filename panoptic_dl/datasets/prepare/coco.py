"""Make COCO 2017 panoptic ready: unpack the archives, and count what they brought."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.parallel import Say
from panoptic_dl.datasets.prepare.archives import (
    COCO,
    COCO_NESTED,
    Archive,
    OfficialArchive,
    find_archives,
    unpack,
)
from panoptic_dl.datasets.prepare.command import (
    alone_in,
    compare,
    dataset_folder,
    describe,
    missing_folder,
    raise_problems,
)

TITLE = "COCO 2017"
OFFICIAL_COUNTS = {"train": 118287, "val": 5000}  # images
ADDRESS = "http://images.cocodataset.org"
TRAIN_IMAGES, VAL_IMAGES, ANNOTATIONS, PANOPTIC = COCO


def prepare_coco(root: str | Path, *, num_workers: int = 1, say: Say = print) -> None:
    """Unpack the archives where that is not done yet, and check that all is there.

    Archives are looked for in the dataset's folder and in the one that holds it. Those of the label
    images come out of `panoptic_annotations_trainval2017.zip`, into `annotations/`.

    Args:
        root: folder that holds `coco/` (`DETECTRON2_DATASETS`), or that folder itself.
        num_workers: processes that share the work.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: archives, folders or files are missing or damaged; the disk is full; another
            process is at work there.
    """
    base = dataset_folder(root, "coco")
    archives = [
        _without_what_is_done(archive, base)
        for archive in find_archives([base, base.parent], COCO, say)
    ]
    if not archives and not base.is_dir():
        raise _missing(base, "train2017")
    with alone_in(base):
        unpack(archives, base, num_workers=num_workers, say=say)
        places = [base / "annotations", base, base.parent]
        nested = find_archives(places, COCO_NESTED, say)
        unpack(nested, base, num_workers=num_workers, say=say)
    check_coco(root, say=say)


def check_coco(root: str | Path, *, say: Say = print) -> None:
    """Compare folders with annotations, and say how many images are there; nothing is changed.

    Raises:
        DatasetError: something is missing that training and evaluation need.
    """
    base = dataset_folder(root, "coco")
    for split in OFFICIAL_COUNTS:
        for name in (f"{split}2017", f"panoptic_{split}2017"):
            if not (base / name).is_dir():
                raise _missing(base, name)
    raise_problems(problem for split in OFFICIAL_COUNTS for problem in _check(base, split, say))
    say(f"ready: dataset=coco dataset.root={base.parent}")


def _without_what_is_done(archive: Archive, base: Path) -> Archive:
    """Leave out archives of label images that are all there: they may have been deleted since."""
    done = {
        f"annotations/panoptic_{split}2017.zip"
        for split, official in OFFICIAL_COUNTS.items()
        if len(_names(base / f"panoptic_{split}2017", ".png")) == official
    }
    members = tuple(info for info in archive.members if info.filename not in done)
    return replace(archive, members=members)


def _missing(base: Path, name: str) -> DatasetError:
    """Say what to download for a folder that is not there."""
    officials = [k for k, n in ((TRAIN_IMAGES, "train2017"), (VAL_IMAGES, "val2017")) if n == name]
    if not base.is_dir():
        officials = list(COCO)
    elif not officials:
        officials = [PANOPTIC]
    lines = "\n".join(f"  wget -c -P {base.parent} {_address(official)}" for official in officials)
    how = "They are free; see cocodataset.org for the terms of use. For instance:\n\n"
    return missing_folder(TITLE, base / name, officials, f"{how}{lines}\n")


def _address(official: OfficialArchive) -> str:
    folder = "annotations" if "annotations" in official.name else "zips"
    return f"{ADDRESS}/{folder}/{official.name}"


def _check(base: Path, split: str, say: Say) -> Iterator[str]:
    """Yield what is wrong with a split; say how many images it has if nothing is."""
    images, labels = base / f"{split}2017", base / f"panoptic_{split}2017"
    listing = base / "annotations" / f"panoptic_{split}2017.json"
    again = f"put {PANOPTIC.name} into {base} and run this again, without --check"
    try:
        content = _read(listing, again)
        names = [annotation["file_name"] for annotation in content["annotations"]]
        wanted = {name.removesuffix(".png") for name in names}
        ids = {image["id"] for image in content["images"]}
    except DatasetError as error:
        yield str(error)
        return
    except (KeyError, TypeError, AttributeError) as error:
        yield f"{TITLE}: {listing} is no COCO panoptic file ({error!r}): {again}"
        return
    if not wanted:
        yield f"{TITLE}: {listing} lists no image: {again}"
    archive = TRAIN_IMAGES if split == "train" else VAL_IMAGES
    unpack_images = again.replace(PANOPTIC.name, archive.name)
    found = _names(images, ".jpg")
    problems = [
        *compare(TITLE, wanted, found, images, ".jpg", unpack_images),
        *compare(TITLE, wanted, _names(labels, ".png"), labels, ".png", again),
    ]
    if split == "val":
        problems += _check_instances(base, split, ids)
    yield from problems
    if wanted and not problems:
        more = len(found - wanted)
        note = f" ({more} more images are without labels, and unused)" if more else ""
        say(f"{split}: {describe(len(wanted), OFFICIAL_COUNTS[split])}{note}")


def _check_instances(base: Path, split: str, ids: set[Any]) -> Iterator[str]:
    """The file that box and mask AP are measured against must know the images."""
    listing = base / "annotations" / f"instances_{split}2017.json"
    again = f"put {ANNOTATIONS.name} into {base} and run this again, without --check"
    try:
        known = {image["id"] for image in _read(listing, again)["images"]}
    except DatasetError as error:
        yield str(error)
        return
    except (KeyError, TypeError) as error:
        yield f"{TITLE}: {listing} is no COCO instances file ({error!r}): {again}"
        return
    unknown = sorted(ids - known, key=str)
    if unknown:
        yield (
            f"{TITLE}: {len(unknown)} of {len(ids)} images missing in {listing}, first "
            f"{unknown[0]}: {again}"
        )


def _read(file: Path, again: str) -> Any:
    if not file.is_file():
        raise DatasetError(f"{TITLE}: file missing: {file}: {again}")
    try:
        return json.loads(file.read_bytes())
    except ValueError as error:
        raise DatasetError(
            f"{TITLE}: not a readable JSON file: {file} ({error}): {again}"
        ) from error


def _names(folder: Path, suffix: str) -> set[str]:
    """Of the files in a folder, without their suffix and without unfinished ones."""
    names = os.listdir(folder) if folder.is_dir() else []
    return {
        name.removesuffix(suffix)
        for name in names
        if name.endswith(suffix) and not name.startswith(".")
    }

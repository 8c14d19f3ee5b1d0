"""Make Cityscapes ready for training and evaluation, from the archives or from what they bring."""

from collections.abc import Iterator
from pathlib import Path

from panoptic_dl.data.archives.find import find_archives
from panoptic_dl.data.archives.kinds import CITYSCAPES
from panoptic_dl.data.archives.unpack import unpack
from panoptic_dl.data.prepare.folder import (
    alone_in,
    archive_places,
    compare,
    dataset_folder,
    describe,
    missing_folder,
    raise_problems,
    ready,
)
from panoptic_dl.data.prepare.labels import (
    IMAGES,
    INSTANCES,
    LABEL_IDS,
    PANOPTIC,
    POLYGONS,
    TRAIN_IDS,
    known_annotations,
    make_panoptic,
    make_train_ids,
)
from panoptic_dl.data.unfinished import remove_unfinished
from panoptic_dl.data.work import Say
from panoptic_dl.image_files import is_whole_png

TITLE = "Cityscapes"
OFFICIAL_COUNTS = {"train": 2975, "val": 500, "test": 1525}  # images
LABELLED = ("train", "val")  # the labels of test in gtFine are dummies: its server keeps them
FOLDERS = {"leftImg8bit": CITYSCAPES[0], "gtFine": CITYSCAPES[1]}  # and the archives they are in
AGAIN = "run this again, without --check"


def prepare_cityscapes(root: str | Path, *, num_workers: int = 1, say: Say = print) -> None:
    """Unpack the archives, and make the label files that training and evaluation need.

    Only what is not there yet is unpacked and made. Archives are looked for in the dataset's folder
    and in the one that holds it. Splits that are absent are left out.

    Args:
        root: folder that holds `cityscapes/` (`DETECTRON2_DATASETS`), or that folder itself.
        num_workers: processes that share the work.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: archives, folders or files are missing or damaged; the disk is full; another
            process is at work there.
    """
    base = dataset_folder(root, "cityscapes")
    archives = find_archives(archive_places(base), CITYSCAPES, say)
    if not archives:
        _require_folders(base)
    with alone_in(base):
        unpack(archives, base, num_workers=num_workers, say=say)
        _require_folders(base)
        remove_unfinished(base / "gtFine")
        splits = _splits(base)
        raise_problems(problem for split in splits for problem in _check_downloads(base, split))
        for split in splits:
            make_train_ids(base, split, num_workers, say)
            make_panoptic(base, split, num_workers, say)
    check_cityscapes(root, say=say)


def check_cityscapes(root: str | Path, *, say: Say = print) -> None:
    """Say how many images of each split are there and complete; nothing is changed.

    Raises:
        DatasetError: something is missing that training and evaluation need.
    """
    base = dataset_folder(root, "cityscapes")
    _require_folders(base)
    splits = _splits(base)
    raise_problems(
        problem
        for split in splits
        for check in (_check_downloads, _check_results)
        for problem in check(base, split)
    )
    for split, official in OFFICIAL_COUNTS.items():
        count = len(_ids(base / "leftImg8bit" / split, IMAGES))
        note = "" if split in LABELLED or not count else " (no public labels, so none are made)"
        say(f"{split}: {describe(count, official)}{note}")
    say(ready(base, "cityscapes"))


def _require_folders(base: Path) -> None:
    missing = [name for name in FOLDERS if not (base / name).is_dir()]
    if missing:
        kinds = [FOLDERS[name] for name in missing]
        raise missing_folder(
            TITLE,
            base / missing[0],
            kinds,
            "They are free for non-commercial use after registration at cityscapes-dataset.com. "
            "With an account:\n\n"
            f"  csDownload -d {base.parent} {' '.join(kind.name for kind in kinds)}\n",
        )


def _splits(base: Path) -> list[str]:
    """The splits with labels that are there, be it in part.

    Raises:
        DatasetError: there is none.
    """
    splits = [s for s in LABELLED if any((base / folder / s).is_dir() for folder in FOLDERS)]
    if not splits:
        raise_problems([f"{TITLE}: {base / 'gtFine'} has none of the folders {LABELLED}"])
    return splits


def _check_downloads(base: Path, split: str) -> Iterator[str]:
    """Yield what the archives should have brought and did not."""
    folders = base / "leftImg8bit" / split, base / "gtFine" / split
    images = _ids(folders[0], IMAGES)
    names = " and ".join(kind.name for kind in CITYSCAPES)
    remedy = f"unpack {names} completely: put them into {base} and run this again"
    if not images:
        yield f"{TITLE}: no images (<city>/*{IMAGES}) in {folders[0]}: {remedy}"
        return
    for suffix in (POLYGONS, INSTANCES, LABEL_IDS):
        ids = _ids(folders[1], suffix)
        yield from compare(TITLE, images, ids, folders[1], suffix, remedy)
        yield from compare(TITLE, ids, images, folders[0], IMAGES, remedy)


def _check_results(base: Path, split: str) -> Iterator[str]:
    """Yield what should be there after the work and is not."""
    images, labels = _ids(base / "leftImg8bit" / split, IMAGES), base / "gtFine" / split
    panoptic = labels.with_name(f"cityscapes_panoptic_{split}")
    listing = panoptic.with_suffix(".json")
    made = {
        file.name.removesuffix(PANOPTIC)
        for file in panoptic.glob(f"*{PANOPTIC}")
        if is_whole_png(file)
    }
    yield from compare(TITLE, images, _ids(labels, TRAIN_IDS), labels, TRAIN_IDS, AGAIN)
    yield from compare(TITLE, images, made, panoptic, PANOPTIC, AGAIN)
    yield from compare(TITLE, images, set(known_annotations(listing)), listing, "", AGAIN)


def _ids(folder: Path, suffix: str) -> set[str]:
    """`<city>_<sequence>_<frame>` of the files below `folder`, without unfinished and torn ones."""
    return {
        file.name.removesuffix(suffix)
        for file in folder.glob(f"*/*{suffix}")
        if not file.name.startswith(".") and (file.suffix != ".png" or is_whole_png(file))
    }

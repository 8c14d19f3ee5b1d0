"""Make Cityscapes ready: unpack its archives, make label files, count.

    python scripts/prepare_cityscapes.py ROOT [--workers N] [--check] [--packed]

ROOT is the folder that holds cityscapes/ (DETECTRON2_DATASETS), or cityscapes/ itself. Put
leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into it, packed. What exists is kept, so an
interrupted run continues where it stopped. With --packed images stay in the first of the two, where
they are read.

For every `gtFine/<split>/<city>/<id>_gtFine_labelIds.png` a `..._labelTrainIds.png` is made, as the
official script makes it of the polygons, which are not needed; and for each `..._instanceIds.png` a
panoptic PNG and an entry of `cityscapes_panoptic_<split>.json`, by the official function of
cityscapesscripts, one image at a time.
"""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from cityscapesscripts.helpers.labels import id2label
from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from PIL import Image

from panoptic_dl.core.archives import is_folder
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import atomic_write, read_json, remove_temporary_files
from panoptic_dl.core.headers import check_records
from panoptic_dl.core.images import IGNORE_LABEL, Kind, read_label_ids, read_size
from panoptic_dl.core.parallel import Progress, Say, parallel_map
from panoptic_dl.datasets.cityscapes import (
    IMAGE,
    INSTANCES,
    LABEL_IDS,
    PANOPTIC,
    TRAIN_IDS,
    CityscapesSplit,
)
from preparation import (
    OfficialArchive,
    dataset_folder,
    describe,
    find_archives,
    is_complete_png,
    lock_folder,
    missing_folder,
    run_command,
    unpack,
)

OFFICIAL_COUNTS = {"train": 2975, "val": 500, "test": 1525}  # images
LABELED = ("train", "val")  # the labels of test in gtFine are dummies: its server keeps them
ARCHIVES = (
    OfficialArchive(
        "leftImg8bit_trainvaltest.zip",
        11_592_327_197,
        re.compile(r"leftImg8bit/(train|val|test)/[\w-]+/[\w-]+_leftImg8bit\.png"),
    ),
    OfficialArchive(
        "gtFine_trainvaltest.zip",
        252_567_705,
        re.compile(
            r"gtFine/(train|val|test)/[\w-]+/[\w-]+_gtFine_"
            r"(polygons\.json|(color|instanceIds|labelIds)\.png)"
        ),
    ),
)
TRAIN_ID_OF = np.full(256, IGNORE_LABEL, np.uint8)  # by label id
for _number, _label in id2label.items():
    if _number >= 0:
        TRAIN_ID_OF[_number] = _label.trainId
FOLDERS = {"leftImg8bit": ARCHIVES[0], "gtFine": ARCHIVES[1]}  # and the archives they are in


def prepare_cityscapes(
    root: str | Path, *, num_workers: int = 1, packed: bool = False, say: Say = print
) -> None:
    """Unpack the archives, and make the label files that training and evaluation need.

    Only what is not there yet is unpacked and made; but all panoptic images of a split are made
    again where one of a finished split is missing. Archives are looked for in the dataset's folder
    and in the one that holds it. Splits that are absent are left out.

    Args:
        root: folder that holds `cityscapes/` (`DETECTRON2_DATASETS`), or that folder itself.
        num_workers: processes that share the work.
        packed: leave images in their archive.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: archives, folders or files are missing or damaged; the disk is full; another
            process is at work there.
    """
    base = dataset_folder(root, "cityscapes")
    found = find_archives([base, base.parent], ARCHIVES, say)
    archives = [archive for archive in found if not packed or archive.official == ARCHIVES[1]]
    if not archives:
        _require_folders(base)
    with lock_folder(base):
        unpack(archives, base, num_workers=num_workers, say=say)
        _require_folders(base)
        remove_temporary_files(base / "gtFine", recursive=True)
        splits = _splits(base)
        for split in splits:
            CityscapesSplit(str(base.parent), split).require_files(prepared=False)
            for suffix in (IMAGE, LABEL_IDS, INSTANCES):
                folder = base / ("leftImg8bit" if suffix == IMAGE else "gtFine") / split
                _require_complete(
                    folder.glob(f"*/[!.]*{suffix}"), "delete them and unpack them again"
                )
            _require_headers(base, split, (LABEL_IDS, INSTANCES))
        for split in splits:
            _make_train_ids(base, split, num_workers, say)
            _make_panoptic(base, split, num_workers, say)
    check_cityscapes(root, say=say)


def check_cityscapes(root: str | Path, *, say: Say = print) -> None:
    """Say how many images of each split are there and complete; nothing is changed.

    Raises:
        DatasetError: something is missing that training and evaluation need.
    """
    base = dataset_folder(root, "cityscapes")
    _require_folders(base)
    for split in _splits(base):
        CityscapesSplit(str(base.parent), split).panoptic_records()
        again = "run this again, without --check"
        _require_complete(base.glob(f"gtFine/{split}/*/[!.]*{TRAIN_IDS}"), again)
        _require_complete(base.glob(f"gtFine/cityscapes_panoptic_{split}/[!.]*{PANOPTIC}"), again)
        _require_headers(base, split, (LABEL_IDS, INSTANCES, TRAIN_IDS, PANOPTIC))
    for split, official in OFFICIAL_COUNTS.items():
        count = len(CityscapesSplit(str(base.parent), split).image_names())
        note = "" if split in LABELED or not count else " (no public labels, so none are made)"
        say(f"{split}: {describe(count, official)}{note}")
    say(f"ready: dataset=cityscapes dataset.root={base.parent}")


def _require_folders(base: Path) -> None:
    split = CityscapesSplit(str(base.parent), LABELED[0])
    there = (base / "leftImg8bit").is_dir() or is_folder(split.images), split.labels.parent.is_dir()
    missing = [name for name, is_there in zip(FOLDERS, there, strict=True) if not is_there]
    if missing:
        officials = [FOLDERS[name] for name in missing]
        raise missing_folder(
            "Cityscapes",
            base / missing[0],
            officials,
            "They are free for non-commercial use after registration at cityscapes-dataset.com. "
            "With an account:\n\n"
            f"  csDownload -d {base.parent} {' '.join(official.name for official in officials)}\n",
        )


def _splits(base: Path) -> list[str]:
    """The splits with labels that are there, be it in part.

    Raises:
        DatasetError: there is none.
    """
    splits = [s for s in LABELED if any((base / folder / s).is_dir() for folder in FOLDERS)]
    if not splits:
        raise DatasetError(f"Cityscapes: {base / 'gtFine'} has none of the folders {LABELED}")
    return splits


def _require_complete(files: Iterable[Path], remedy: str) -> None:
    """Raise `DatasetError` if one of the PNGs is torn."""
    if torn := sorted(file for file in files if not is_complete_png(file)):
        raise DatasetError(f"Cityscapes: {len(torn)} torn files, first {torn[0]}: {remedy}")


def _require_headers(base: Path, split: str, suffixes: Sequence[str]) -> None:
    """Raise `DatasetError` where headers of images and their labels of these kinds have a fault."""
    files_of = CityscapesSplit(str(base.parent), split)

    def labels_of(record: Mapping[str, Any]) -> list[tuple[str, Kind]]:
        image = Path(record["file_name"])
        name, labels = image.name.removesuffix(IMAGE), files_of.labels / image.parent.name
        files: list[tuple[str, Kind]] = []
        for suffix in suffixes:
            kind: Kind = "panoptic" if suffix == PANOPTIC else "label"
            folder = base / f"gtFine/cityscapes_panoptic_{split}" if suffix == PANOPTIC else labels
            files.append((str(folder / (name + suffix)), kind))
        return files

    images = [{"file_name": str(files_of.images / name)} for name in files_of.image_names()]
    try:
        check_records(split, images, labels_of)
    except DatasetError as error:
        raise DatasetError(
            f"Cityscapes: {error}: unpack the one that is wrong again (images are in "
            f"{ARCHIVES[0].name}, labels in {ARCHIVES[1].name}), and run this without --check"
        ) from error


def _make_train_ids(base: Path, split: str, num_workers: int, say: Say) -> None:
    """For each labelIds image of a split a labelTrainIds image, where it is not there yet.

    Raises:
        DatasetError: a labelIds image is damaged; names it.
    """
    label_ids = sorted((base / "gtFine" / split).glob(f"*/[!.]*{LABEL_IDS}"))
    wanted = [file for file in label_ids if not _is_made(_train_ids_of(file), file)]
    title = f"{split}: labelTrainIds"
    _work(_write_train_ids, [(file,) for file in wanted], num_workers, title, say)


def _train_ids_of(label_ids: Path) -> Path:
    return label_ids.with_name(label_ids.name.removesuffix(LABEL_IDS) + TRAIN_IDS)


def _write_train_ids(label_ids: Path) -> None:
    with atomic_write(_train_ids_of(label_ids), sync=False) as temporary, _named(label_ids):
        Image.fromarray(TRAIN_ID_OF[read_label_ids(label_ids)]).save(temporary)


def _make_panoptic(base: Path, split: str, num_workers: int, say: Say) -> None:
    """The panoptic images of a split and their JSON file, unless all are there.

    Raises:
        DatasetError: an instanceIds image is damaged; names it.
    """
    folder = base / "gtFine" / f"cityscapes_panoptic_{split}"
    target, parts = folder.with_suffix(".json"), folder.with_name(f".{folder.name}.parts")
    images = {
        file.name.removesuffix(INSTANCES): file
        for file in sorted((base / "gtFine" / split).glob(f"*/[!.]*{INSTANCES}"))
    }
    complete = {n for n, file in images.items() if _is_made(folder / (n + PANOPTIC), file)}
    if len(complete) == len(images) and _listed_images(target) == complete:
        say(f"{split}: panoptic: nothing to do")
        return
    folder.mkdir(exist_ok=True)
    parts.mkdir(exist_ok=True)
    part_of = {number: parts / f"{number}.json" for number in images}
    jobs = [
        (file, folder, part_of[number])
        for number, file in images.items()
        if number not in complete or not part_of[number].is_file()
    ]
    _work(_write_panoptic, jobs, num_workers, f"{split}: panoptic", say)
    contents = [read_json(part) for part in part_of.values()]
    with atomic_write(target) as temporary:
        # The layout of the official file, byte for byte.
        temporary.write_text(
            json.dumps(
                {
                    "images": [image for content in contents for image in content["images"]],
                    "annotations": [a for content in contents for a in content["annotations"]],
                    "categories": contents[0]["categories"],
                },
                sort_keys=True,
                indent=4,
            )
        )
    shutil.rmtree(parts)


def _listed_images(target: Path) -> set[str]:
    """Of an earlier JSON file; none if it is missing or torn."""
    try:
        content = read_json(target)
        return {annotation["image_id"] for annotation in content["annotations"]}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return set()


def _write_panoptic(instances: Path, folder: Path, part: Path) -> None:
    """Let the official function convert a data set of one image; move the results into place."""
    with tempfile.TemporaryDirectory(dir=part.parent) as scratch:
        city = Path(scratch, "in", "one", "city")
        city.mkdir(parents=True)
        (city / instances.name).symlink_to(instances.resolve())
        made = Path(scratch, "out")
        made.mkdir()
        with _named(instances):
            convert2panoptic(str(city.parents[1]), str(made), setNames=["one"])
        name = instances.name.removesuffix(INSTANCES) + PANOPTIC
        os.replace(made / "cityscapes_panoptic_one.json", part)
        os.replace(made / "cityscapes_panoptic_one" / name, folder / name)


def _is_made(file: Path, source: Path) -> bool:
    """Whether a file is a complete PNG of the size of what it is made of."""
    return is_complete_png(file) and read_size(file) == read_size(source)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Silence the official functions; turn their exits and errors into one that names the file."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    except (Exception, SystemExit) as error:
        last = printed.getvalue().strip().splitlines()[-1:] or [str(error) or repr(error)]
        raise DatasetError(
            f"cannot convert {file}: {last[0]}; delete it and run this again with "
            "gtFine_trainvaltest.zip in place, or unpack it again"
        ) from error


def _work(
    function: Callable[..., Any],
    jobs: list[tuple[Any, ...]],
    num_workers: int,
    title: str,
    say: Say,
) -> None:
    """Call `function` with each of the jobs, in several processes, and report progress."""
    if not jobs:
        say(f"{title}: nothing to do")
        return
    results = parallel_map(function, jobs, num_workers)
    with Progress(title, len(jobs), say=say) as progress, closing(results):
        for _ in results:
            progress.add(1)


if __name__ == "__main__":
    run_command(str(__doc__), prepare_cityscapes, check_cityscapes, "cityscapes", packed=True)

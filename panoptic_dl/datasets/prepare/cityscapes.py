"""Prepare Cityscapes: unpack its archives, make the label files for training, count.

For every `gtFine/<split>/<city>/<id>_gtFine_polygons.json` a `..._labelTrainIds.png` is made, and
for each `..._instanceIds.png` a panoptic PNG and an entry of `cityscapes_panoptic_<split>.json`, by
the official functions of cityscapesscripts, one image at a time: processes share the work, and a
second run continues an interrupted one.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from cityscapesscripts.preparation.json2labelImg import json2labelImg

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import atomic_write, remove_temporary_files
from panoptic_dl.core.parallel import Progress, Say, parallel_map
from panoptic_dl.datasets.prepare.archives import CITYSCAPES, find_archives, unpack
from panoptic_dl.datasets.prepare.command import (
    alone_in,
    compare,
    dataset_folder,
    describe,
    missing_folder,
    raise_problems,
)

IMAGES, POLYGONS = "_leftImg8bit.png", "_gtFine_polygons.json"
INSTANCES, LABEL_IDS = "_gtFine_instanceIds.png", "_gtFine_labelIds.png"
TRAIN_IDS, PANOPTIC = "_gtFine_labelTrainIds.png", "_gtFine_panoptic.png"
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum
TITLE = "Cityscapes"
OFFICIAL_COUNTS = {"train": 2975, "val": 500, "test": 1525}  # images
LABELED = ("train", "val")  # the labels of test in gtFine are dummies: its server keeps them
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
    archives = find_archives([base, base.parent], CITYSCAPES, say)
    if not archives:
        _require_folders(base)
    with alone_in(base):
        unpack(archives, base, num_workers=num_workers, say=say)
        _require_folders(base)
        remove_temporary_files(base / "gtFine", recursive=True)
        splits = _splits(base)
        raise_problems(problem for split in splits for problem in _check_downloads(base, split))
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
    splits = _splits(base)
    raise_problems(
        problem
        for split in splits
        for check in (_check_downloads, _check_results)
        for problem in check(base, split)
    )
    for split, official in OFFICIAL_COUNTS.items():
        count = len(_ids(base / "leftImg8bit" / split, IMAGES))
        note = "" if split in LABELED or not count else " (no public labels, so none are made)"
        say(f"{split}: {describe(count, official)}{note}")
    say(f"ready: dataset=cityscapes dataset.root={base.parent}")


def _require_folders(base: Path) -> None:
    missing = [name for name in FOLDERS if not (base / name).is_dir()]
    if missing:
        officials = [FOLDERS[name] for name in missing]
        raise missing_folder(
            TITLE,
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
        raise_problems([f"{TITLE}: {base / 'gtFine'} has none of the folders {LABELED}"])
    return splits


def _check_downloads(base: Path, split: str) -> Iterator[str]:
    """Yield what the archives should have brought and did not."""
    folders = base / "leftImg8bit" / split, base / "gtFine" / split
    images = _ids(folders[0], IMAGES)
    names = " and ".join(official.name for official in CITYSCAPES)
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
        if _is_whole_png(file)
    }
    yield from compare(TITLE, images, _ids(labels, TRAIN_IDS), labels, TRAIN_IDS, AGAIN)
    yield from compare(TITLE, images, made, panoptic, PANOPTIC, AGAIN)
    yield from compare(TITLE, images, set(_known_annotations(listing)), listing, "", AGAIN)


def _ids(folder: Path, suffix: str) -> set[str]:
    """`<city>_<sequence>_<frame>` of the files below `folder`, without unfinished and torn ones."""
    return {
        file.name.removesuffix(suffix)
        for file in folder.glob(f"*/*{suffix}")
        if not file.name.startswith(".") and (file.suffix != ".png" or _is_whole_png(file))
    }


def _make_train_ids(base: Path, split: str, num_workers: int, say: Say) -> None:
    """For each polygons file of a split a labelTrainIds image, where it is not there yet.

    Raises:
        DatasetError: a polygons file is damaged; names it.
    """
    polygons = sorted((base / "gtFine" / split).glob(f"*/*{POLYGONS}"))
    wanted = [f for f in polygons if not _is_whole_png(_train_ids_of(f))]
    title = f"{split}: labelTrainIds"
    _work(_write_train_ids, [(file,) for file in wanted], num_workers, title, say)


def _train_ids_of(polygons: Path) -> Path:
    return polygons.with_name(polygons.name.removesuffix(POLYGONS) + TRAIN_IDS)


def _write_train_ids(polygons: Path) -> None:
    with atomic_write(_train_ids_of(polygons), sync=False) as unfinished, _named(polygons):
        json2labelImg(str(polygons), str(unfinished), "trainIds")


def _make_panoptic(base: Path, split: str, num_workers: int, say: Say) -> None:
    """The panoptic images of a split and their JSON file, where they are not there yet.

    Raises:
        DatasetError: an instanceIds image is damaged; names it.
    """
    folder = base / "gtFine" / f"cityscapes_panoptic_{split}"
    target, parts = folder.with_suffix(".json"), folder.with_name(f".{folder.name}.parts")
    instances = sorted((base / "gtFine" / split).glob(f"*/*{INSTANCES}"))
    if not instances:
        return
    known = _known_annotations(target)
    wanted, parts_of = [], {}
    for file in instances:
        image_id = file.name.removesuffix(INSTANCES)
        part = parts_of[image_id] = parts / f"{image_id}.json"
        if not _is_whole_png(folder / (image_id + PANOPTIC)) or not (
            image_id in known or part.is_file()
        ):
            wanted.append((file, folder, part))
            known.pop(image_id, None)
    if not wanted and known.keys() == parts_of.keys():
        say(f"{split}: panoptic: nothing to do")
        return
    folder.mkdir(exist_ok=True)
    parts.mkdir(exist_ok=True)
    _work(_write_panoptic, wanted, num_workers, f"{split}: panoptic", say)
    contents = [
        known[image_id] if image_id in known else json.loads(part.read_bytes())
        for image_id, part in parts_of.items()
    ]
    with atomic_write(target) as unfinished:
        # The layout of the official file, byte for byte.
        unfinished.write_text(
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


def _known_annotations(target: Path) -> dict[str, dict[str, Any]]:
    """The content of an earlier JSON file by image, in the form of the parts."""
    try:
        content = json.loads(target.read_bytes())
        images = {image["id"]: image for image in content["images"]}
        return {
            annotation["image_id"]: {
                "images": [images[annotation["image_id"]]],
                "annotations": [annotation],
                "categories": content["categories"],
            }
            for annotation in content["annotations"]
        }
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # none, or torn: it is made anew
        return {}


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


def _is_whole_png(file: Path) -> bool:
    """Whether a file ends as PNGs do; a torn one, or none at all, does not."""
    try:
        with file.open("rb") as opened:
            opened.seek(-len(PNG_END), os.SEEK_END)
            return opened.read() == PNG_END
    except OSError:  # not there, or shorter than that
        return False


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Silence the official functions; turn their exits and errors into one that names the file."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    except (Exception, SystemExit) as error:
        last = printed.getvalue().strip().splitlines()[-1:] or [repr(error)]
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

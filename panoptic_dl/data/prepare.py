"""Prepare Cityscapes as downloaded for training: what the official scripts make, made resumably.

For every `gtFine/<split>/<city>/<id>_gtFine_polygons.json` a `..._labelTrainIds.png`, and for each
`..._instanceIds.png` a panoptic PNG and an entry of `cityscapes_panoptic_<split>.json`. Functions
of cityscapesscripts do the work, one image at a time, so that processes can share it and a second
run continues an interrupted one: a file is there completely or not at all.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from cityscapesscripts.preparation.createPanopticImgs import convert2panoptic
from cityscapesscripts.preparation.json2labelImg import json2labelImg

from panoptic_dl.data.errors import DatasetError

OFFICIAL_COUNTS = {"train": 2975, "val": 500, "test": 1525}  # images with fine labels
IMAGES, POLYGONS = "_leftImg8bit.png", "_gtFine_polygons.json"
INSTANCES, LABEL_IDS = "_gtFine_instanceIds.png", "_gtFine_labelIds.png"
TRAIN_IDS, PANOPTIC = "_gtFine_labelTrainIds.png", "_gtFine_panoptic.png"
DOWNLOADS = {
    "leftImg8bit": "leftImg8bit_trainvaltest.zip (11 GB)",
    "gtFine": "gtFine_trainvaltest.zip (241 MB)",
}

SECONDS_BETWEEN_LINES = 10.0

Say = Callable[[str], None]


def prepare_cityscapes(root: str | Path, *, num_workers: int = 1, say: Say = print) -> None:
    """Make the label files that training and evaluation need, where they are not there yet.

    Splits that are absent are left out.

    Args:
        root: folder that holds `cityscapes/` (`DETECTRON2_DATASETS`), or that folder itself.
        num_workers: processes that share the images.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: downloaded folders or files are missing, or a label file is damaged.
    """
    base = find_cityscapes(Path(root).expanduser())
    splits = [split for split in OFFICIAL_COUNTS if (base / "gtFine" / split).is_dir()]
    if not splits:
        raise DatasetError(f"{base / 'gtFine'} has none of the folders train, val, test")
    _raise_problems(problem for split in splits for problem in _check_downloads(base, split))
    for split in splits:
        _make_train_ids(base, split, num_workers, say)
        _make_panoptic(base, split, num_workers, say)
    _raise_problems(problem for split in splits for problem in _check_results(base, split))
    for split, official in OFFICIAL_COUNTS.items():
        count = len(_ids(base / "leftImg8bit" / split, IMAGES)) if split in splits else 0
        say(f"{split}: {_describe(count, official)}")


def find_cityscapes(root: Path) -> Path:
    """Return the folder with `leftImg8bit` and `gtFine`: `root` or `root/cityscapes`.

    Raises:
        DatasetError: one of the two is missing; says what to download.
    """
    base = root if any((root / name).is_dir() for name in DOWNLOADS) else root / "cityscapes"
    missing = [name for name in DOWNLOADS if not (base / name).is_dir()]
    if missing:
        archives = " and ".join(DOWNLOADS[name] for name in missing)
        raise DatasetError(
            f"Cityscapes: folder missing: {base / missing[0]}. Log in at cityscapes-dataset.com "
            f"(registration is free for non-commercial use), download {archives}, "
            f"and unpack into {base}"
        )
    return base


def _make_train_ids(base: Path, split: str, num_workers: int, say: Say) -> None:
    polygons = sorted((base / "gtFine" / split).glob(f"*/*{POLYGONS}"))
    wanted = [file for file in polygons if not _sibling(file, POLYGONS, TRAIN_IDS).is_file()]
    title = f"{split}: labelTrainIds"
    for _ in _work(_write_train_ids, [(file,) for file in wanted], num_workers, title, say):
        pass


def _write_train_ids(polygons: Path) -> None:
    with _complete(_sibling(polygons, POLYGONS, TRAIN_IDS)) as unfinished, _named(polygons):
        json2labelImg(str(polygons), str(unfinished), "trainIds")


def _make_panoptic(base: Path, split: str, num_workers: int, say: Say) -> None:
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
        if not (folder / (image_id + PANOPTIC)).is_file() or not (
            image_id in known or part.is_file()
        ):
            wanted.append((file, folder, part))
            known.pop(image_id, None)
    if not wanted and known.keys() == parts_of.keys():
        say(f"{split}: panoptic: nothing to do")
        return
    folder.mkdir(exist_ok=True)
    parts.mkdir(exist_ok=True)
    for _ in _work(_write_panoptic, wanted, num_workers, f"{split}: panoptic", say):
        pass
    contents = [
        known[image_id] if image_id in known else json.loads(part.read_bytes())
        for image_id, part in parts_of.items()
    ]
    with _complete(target) as unfinished:
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
    """What an earlier JSON file says of each image, in the form of the parts."""
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


def _check_downloads(base: Path, split: str) -> Iterator[str]:
    """Yield what the archives should have brought and did not."""
    images, labels = _ids(base / "leftImg8bit" / split, IMAGES), base / "gtFine" / split
    remedy = f"unpack {' and '.join(DOWNLOADS.values())} completely"
    for suffix in (POLYGONS, INSTANCES, LABEL_IDS):
        ids = _ids(labels, suffix)
        yield from _compare(images, ids, labels, suffix, remedy)
        yield from _compare(ids, images, base / "leftImg8bit" / split, IMAGES, remedy)


def _check_results(base: Path, split: str) -> Iterator[str]:
    """Yield what should be there after the work and is not."""
    images, labels = _ids(base / "leftImg8bit" / split, IMAGES), base / "gtFine" / split
    panoptic = labels.with_name(f"cityscapes_panoptic_{split}")
    made = {file.name.removesuffix(PANOPTIC) for file in panoptic.glob(f"*{PANOPTIC}")}
    listed = set(_known_annotations(panoptic.with_suffix(".json")))
    yield from _compare(images, _ids(labels, TRAIN_IDS), labels, TRAIN_IDS, "run this again")
    yield from _compare(images, made, panoptic, PANOPTIC, "run this again")
    yield from _compare(images, listed, panoptic.with_suffix(".json"), "", "run this again")


def _compare(
    expected: set[str], found: set[str], where: Path, suffix: str, remedy: str
) -> Iterator[str]:
    missing = sorted(expected - found)
    if missing:
        yield (
            f"Cityscapes: {len(missing)} of {len(expected)} missing in {where}, "
            f"first {missing[0]}{suffix}: {remedy}"
        )


def _raise_problems(problems: Iterable[str]) -> None:
    if lines := list(problems):
        raise DatasetError("\n".join(lines))


def _describe(count: int, official: int) -> str:
    if count == official:
        return f"complete, {count} images"
    if count == 0:
        return "not there, left out"
    return f"{count} of the official {official} images: good for trials, not for published figures"


def _ids(folder: Path, suffix: str) -> set[str]:
    """`<city>_<sequence>_<frame>` of the files below `folder`, without unfinished ones."""
    names = (file.name for file in folder.glob(f"*/*{suffix}"))
    return {name.removesuffix(suffix) for name in names if not name.startswith(".")}


def _sibling(file: Path, suffix: str, other: str) -> Path:
    return file.with_name(file.name.removesuffix(suffix) + other)


@contextmanager
def _complete(target: Path) -> Iterator[Path]:
    """Give a path to write to, and move the file to `target` once it is written."""
    unfinished = target.with_name(f".{os.getpid()}.{target.name}")
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def _named(file: Path) -> Iterator[None]:
    """Silence the official functions; turn their exits and errors into one that names the file."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            yield
    except (Exception, SystemExit) as error:
        last = printed.getvalue().strip().splitlines()[-1:] or [repr(error)]
        raise DatasetError(f"cannot convert {file}: {last[0]}; unpack it again") from error


def _work(
    function: Callable[..., Any],
    jobs: list[tuple[Any, ...]],
    num_workers: int,
    title: str,
    say: Say,
) -> Iterator[None]:
    """Call `function` with each of the jobs, in several processes, and report progress."""
    if not jobs:
        say(f"{title}: nothing to do")
        return
    start = last = time.monotonic()
    for done, result in enumerate(_results(function, jobs, num_workers), start=1):
        yield result
        now = time.monotonic()
        if done == len(jobs) or now - last > SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / done * (len(jobs) - done)
            say(f"{title}: {done} of {len(jobs)}" + (f", {left / 60:.0f} min left" if left else ""))


def _results(
    function: Callable[..., Any], jobs: list[tuple[Any, ...]], num_workers: int
) -> Iterable[Any]:
    if num_workers <= 1:
        yield from (function(*job) for job in jobs)
        return
    context = get_context("fork" if sys.platform == "linux" else "spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        try:
            yield from pool.map(function, *zip(*jobs, strict=True), chunksize=4)
        finally:
            pool.shutdown(cancel_futures=True)

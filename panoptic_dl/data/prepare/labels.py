"""The label files of Cityscapes that the official scripts make, made resumably.

For every `gtFine/<split>/<city>/<id>_gtFine_polygons.json` a `..._labelTrainIds.png`, and for each
`..._instanceIds.png` a panoptic PNG and an entry of `cityscapes_panoptic_<split>.json`. Functions
of cityscapesscripts do the work, one image at a time, so that processes can share it and a second
run continues an interrupted one: a file is there completely or not at all.
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

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.unfinished import whole
from panoptic_dl.data.work import Progress, Say, share_out
from panoptic_dl.image_files import is_whole_png

IMAGES, POLYGONS = "_leftImg8bit.png", "_gtFine_polygons.json"
INSTANCES, LABEL_IDS = "_gtFine_instanceIds.png", "_gtFine_labelIds.png"
TRAIN_IDS, PANOPTIC = "_gtFine_labelTrainIds.png", "_gtFine_panoptic.png"


def make_train_ids(base: Path, split: str, num_workers: int, say: Say) -> None:
    """For each polygons file of a split a labelTrainIds image, where it is not there yet.

    Raises:
        DatasetError: a polygons file is damaged; names it.
    """
    polygons = sorted((base / "gtFine" / split).glob(f"*/*{POLYGONS}"))
    wanted = [f for f in polygons if not is_whole_png(_sibling(f, POLYGONS, TRAIN_IDS))]
    title = f"{split}: labelTrainIds"
    _work(_write_train_ids, [(file,) for file in wanted], num_workers, title, say)


def _write_train_ids(polygons: Path) -> None:
    with whole(_sibling(polygons, POLYGONS, TRAIN_IDS)) as unfinished, _named(polygons):
        json2labelImg(str(polygons), str(unfinished), "trainIds")


def make_panoptic(base: Path, split: str, num_workers: int, say: Say) -> None:
    """The panoptic images of a split and their JSON file, where they are not there yet.

    Raises:
        DatasetError: an instanceIds image is damaged; names it.
    """
    folder = base / "gtFine" / f"cityscapes_panoptic_{split}"
    target, parts = folder.with_suffix(".json"), folder.with_name(f".{folder.name}.parts")
    instances = sorted((base / "gtFine" / split).glob(f"*/*{INSTANCES}"))
    if not instances:
        return
    known = known_annotations(target)
    wanted, parts_of = [], {}
    for file in instances:
        image_id = file.name.removesuffix(INSTANCES)
        part = parts_of[image_id] = parts / f"{image_id}.json"
        if not is_whole_png(folder / (image_id + PANOPTIC)) or not (
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
    with whole(target) as unfinished:
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


def known_annotations(target: Path) -> dict[str, dict[str, Any]]:
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


def _sibling(file: Path, suffix: str, other: str) -> Path:
    return file.with_name(file.name.removesuffix(suffix) + other)


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
    progress = Progress(title, len(jobs), say)
    try:
        with closing(share_out(function, jobs, num_workers)) as results:
            for _ in results:
                progress.add(1)
    finally:
        progress.close()

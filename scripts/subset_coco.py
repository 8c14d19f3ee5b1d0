"""Make a small COCO panoptic dataset out of a large one: `python scripts/subset_coco.py --help`.

The chosen images become both `train2017` and `val2017` of a new folder, in the official layout, so
that a model can be trained and evaluated on the very same images: the overfitting check of
docs/explanation/overfitting.md. Images and panoptic PNGs are linked, not copied.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import DatasetError, one_line_errors
from panoptic_dl.core.files import local_path, read_json
from panoptic_dl.core.headers import check_records

KINDS = ("panoptic", "instances")


def subset(source: Path, target: Path, split: str, ids: list[int] | None, count: int) -> list[int]:
    """Write the new dataset, which the readers take; return the ids of its images.

    Args:
        source, target: folders that hold `coco/`.
        split: `train2017` or `val2017`, where the images come from.
        ids: the images; None: the first `count` by id.

    Raises:
        DatasetError, EvaluationError: a file or an image id is missing or torn, a reader refuses
            it, or the target exists. Nothing is left of the new dataset.
    """
    coco, small = source / "coco", target / "coco"
    if small.exists():
        raise DatasetError(f"{small} exists already; remove it or choose another folder")
    trees = {kind: read(coco / "annotations" / f"{kind}_{split}.json") for kind in KINDS}
    known = sorted(image["id"] for image in trees["panoptic"]["images"])
    chosen = known[:count] if ids is None else list(dict.fromkeys(ids))
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise DatasetError(f"{split} has no image {unknown[0]}")
    for image in chosen:
        for file in (f"{split}/{image:012d}.jpg", f"panoptic_{split}/{image:012d}.png"):
            if not (coco / file).is_file():
                raise DatasetError(f"{coco / file} is missing")
    try:
        for name in ("train2017", "val2017"):
            (small / "annotations").mkdir(parents=True, exist_ok=True)
            for folder in (name, f"panoptic_{name}"):
                (small / folder).mkdir()
            for kind, tree in trees.items():
                text = json.dumps(chosen_only(tree, set(chosen)))
                (small / "annotations" / f"{kind}_{name}.json").write_text(text)
            for image in chosen:
                link(coco / split / f"{image:012d}.jpg", small / name)
                link(coco / f"panoptic_{split}" / f"{image:012d}.png", small / f"panoptic_{name}")
        ask_the_readers(target)
    except BaseException:  # also Ctrl-C: the same command may be given again
        shutil.rmtree(small, ignore_errors=True)
        raise
    return chosen


def read(file: Path) -> dict[str, Any]:
    """The JSON file of COCO's annotations, with its "images" and "annotations"."""
    if not file.is_file():
        raise DatasetError(f"{file} is missing; `python scripts/prepare_coco.py` says more")
    try:
        tree: dict[str, Any] = read_json(file)
        _ = [image["id"] for image in tree["images"]], [a["image_id"] for a in tree["annotations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"{file} is no annotation file of COCO ({error!r})") from error
    return tree


def chosen_only(tree: dict[str, Any], chosen: set[int]) -> dict[str, Any]:
    images = [image for image in tree["images"] if image["id"] in chosen]
    annotations = [a for a in tree["annotations"] if a["image_id"] in chosen]
    return tree | {"images": images, "annotations": annotations}


def link(file: Path, folder: Path) -> None:
    (folder / file.name).symlink_to(file.resolve())


def ask_the_readers(target: Path) -> None:
    """Raise an error unless training and evaluation take the dataset."""
    from detectron2.data import DatasetCatalog  # imports torch, which takes seconds

    from panoptic_dl.datasets.coco import coco_panoptic
    from panoptic_dl.evaluation.coco_instances import read_instances

    for split in ("train", "val"):
        name = coco_panoptic(root=str(target), split=split, prefix="subset_")
        images = DatasetCatalog.get(name)
        check_records(split, images)
        read_instances(name, images)


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=local_path, help="folder that holds coco/")
    parser.add_argument("target", type=local_path, help="new folder that will hold coco/")
    parser.add_argument("--split", default="train2017", choices=("train2017", "val2017"))
    parser.add_argument("--count", type=int, default=8, help="images, the first by id")
    parser.add_argument("--ids", type=int, nargs="+", help="these images instead")
    options = parser.parse_args()
    if options.count < 1:
        parser.error("--count must be at least 1")
    chosen = subset(options.source, options.target, options.split, options.ids, options.count)
    print(f"{len(chosen)} images in {options.target / 'coco'}: {' '.join(map(str, chosen))}")
    print(f"ready: dataset=coco dataset.root={options.target}")


if __name__ == "__main__":
    main()

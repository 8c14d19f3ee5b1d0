"""Write a dataset of an annotation tool in COCO's panoptic format, for use elsewhere.

    python scripts/import_dataset.py FOLDER OUT [KEY=VALUE ...]

FOLDER is an export of Roboflow, CVAT, Label Studio, Datumaro, LabelMe or Ultralytics, images with
masks, or a dataset that the documentation lists. OUT gets annotations/panoptic_<split>.json,
panoptic_<split>/ and images/, which dataset=coco_format dataset.root=OUT reads, as other programs
for that format do. KEY=VALUE are those of dataset.*: background=void, stuff=[road,sky], names=FILE.
Training needs no such copy: `python run.py mode=doctor dataset.root=FOLDER` says what to run.
"""

import argparse
import inspect
import json
import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

import yaml

from panoptic_dl.core.errors import DatasetError, one_line_errors
from panoptic_dl.core.files import local_path


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=local_path, metavar="FOLDER")
    parser.add_argument("out", type=local_path, metavar="OUT", help="must not exist")
    parser.add_argument("--dataset", metavar="NAME", help="its format, where it is not recognized")
    parser.add_argument("keys", nargs="*", metavar="KEY=VALUE", help="of dataset.*")
    given = parser.parse_intermixed_args()
    logging.basicConfig(format="%(message)s")
    try:
        keys = {key: yaml.safe_load(value) for key, value in (k.split("=", 1) for k in given.keys)}
    except ValueError as error:
        raise DatasetError(f"{' '.join(given.keys)}: write KEY=VALUE") from error
    print(import_dataset(given.folder, given.out, given.dataset, keys))


def import_dataset(folder: Path, out: Path, form: str | None, keys: dict[str, Any]) -> str:
    """Convert all splits and copy the images; returns how to train on it.

    Raises:
        DatasetError: `folder` is not recognized, `out` exists, or something in the files or `keys`
            does not fit.
    """
    from panoptic_dl.datasets.importing import (
        FORMATS,
        ImportOptions,
        convert,
        other_dataset,
        recognize,
    )

    if out.exists():
        raise DatasetError(f"{out} exists: name a new folder")
    found = recognize(folder)
    title = f"dataset={found[0]}" if found else "import_dataset"
    if form is None and (other := other_dataset(title, folder)):
        raise other  # such as one folder deeper
    form = form or (found[0] if found else None)
    if form not in FORMATS:
        what = f"is {found[1]}, which is read as it is" if found else "is no export that is known"
        raise DatasetError(f"{folder} {what}; formats are {', '.join(FORMATS)} (--dataset NAME)")
    read = FORMATS[form].read
    of_reader = {k: v for k, v in keys.items() if k in inspect.signature(read).parameters}
    try:
        options = ImportOptions(**{k: v for k, v in keys.items() if k not in of_reader})
    except TypeError as error:
        raise DatasetError(f"{form}: {error}") from error
    export = read(folder, **of_reader)
    splits = [*export.splits, *({"val"} - export.splits.keys())]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as temporary:
        part = Path(temporary) / out.name  # complete, it is renamed
        part.mkdir()
        for note in convert(export, folder, part, splits, options):
            print(note)
        for file in sorted((part / "annotations").iterdir()):
            for image in json.loads(file.read_text())["images"]:
                target = part / "images" / image["file_name"]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(folder / image["file_name"], target)
        part.rename(out)
    return f"ready: python run.py dataset=coco_format dataset.root={out}"


if __name__ == "__main__":
    main()

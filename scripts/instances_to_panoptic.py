"""Make panoptic labels of COCO's instances format, which annotation tools export.

    python scripts/instances_to_panoptic.py INSTANCES.json ROOT SPLIT [--stuff NAME ...]
        [--background NAME]

Writes ROOT/annotations/panoptic_SPLIT.json and ROOT/panoptic_SPLIT/, which dataset=coco_format
dataset.root=ROOT reads; the images go to ROOT/SPLIT/. Smaller masks are put over larger ones.
"""

import argparse
import sys
from pathlib import Path

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.prepare.from_instances import convert_instances


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="INSTANCES.json")
    parser.add_argument("root", type=Path, metavar="ROOT", help="folder of the dataset")
    parser.add_argument("split", metavar="SPLIT", help="such as train or val")
    parser.add_argument(
        "--stuff", nargs="+", default=[], metavar="NAME", help="categories that are not counted"
    )
    parser.add_argument(
        "--background",
        metavar="NAME",
        help="a new class for pixels without a mask; without it they are void: nothing is learnt "
        "of them, and the model sees one of its classes there",
    )
    given = parser.parse_args()
    try:
        done = convert_instances(
            given.source, given.root, given.split, stuff=given.stuff, background=given.background
        )
    except (DatasetError, OSError) as error:
        sys.exit(f"error: {error}")
    print(f"{done['segments']} segments of {done['images']} images")
    if done["hidden"]:
        print(f"{done['hidden']} instances lie below others altogether, and are left out")


if __name__ == "__main__":
    main()

"""Make the label files that Cityscapes needs: labelTrainIds, panoptic PNGs and their JSON files.

    python scripts/prepare_cityscapes.py ROOT [--workers N]

ROOT is the folder that holds cityscapes/ (DETECTRON2_DATASETS), or cityscapes/ itself. What exists
is kept, so an interrupted run continues where it stopped.
"""

import argparse
import os
import sys

from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.prepare import prepare_cityscapes


def usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # Linux: what a cluster grants, not what the machine has
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", metavar="ROOT", help="folder that holds cityscapes/")
    parser.add_argument(
        "--workers",
        type=int,
        default=min(usable_cores(), 16),
        metavar="N",
        help="processes that share the images (default: usable cores, %(default)s)",
    )
    arguments = parser.parse_args()
    try:
        prepare_cityscapes(arguments.root, num_workers=arguments.workers)
    except DatasetError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()

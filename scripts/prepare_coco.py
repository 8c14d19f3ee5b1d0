"""Make COCO 2017 panoptic ready: unpack its archives, count.

    python scripts/prepare_coco.py ROOT [--workers N] [--check]

ROOT is the folder that holds coco/ (DETECTRON2_DATASETS), or coco/ itself. Put train2017.zip,
val2017.zip, annotations_trainval2017.zip and panoptic_annotations_trainval2017.zip into it, packed.
What exists is kept, so an interrupted run continues where it stopped.
"""

from panoptic_dl.datasets.prepare.coco import check_coco, prepare_coco
from panoptic_dl.datasets.prepare.command import run_command

if __name__ == "__main__":
    run_command(str(__doc__), prepare_coco, check_coco, "coco")

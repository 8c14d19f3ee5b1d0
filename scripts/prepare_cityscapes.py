"""Make Cityscapes ready: unpack its archives, make label files, count.

    python scripts/prepare_cityscapes.py ROOT [--workers N] [--check]

ROOT is the folder that holds cityscapes/ (DETECTRON2_DATASETS), or cityscapes/ itself. Put
leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip into it, packed. What exists is kept, so an
interrupted run continues where it stopped.
"""

from panoptic_dl.datasets.prepare.cityscapes import check_cityscapes, prepare_cityscapes
from panoptic_dl.datasets.prepare.command import run_command

if __name__ == "__main__":
    run_command(str(__doc__), prepare_cityscapes, check_cityscapes, "cityscapes")

"""Check COCO 2017 panoptic, and say what is missing and where to put it.

    python scripts/prepare_coco.py ROOT

ROOT is the folder that holds coco/ (DETECTRON2_DATASETS). Nothing is downloaded or changed.
"""

import argparse
import sys

from detectron2.data import DatasetCatalog

from panoptic_dl.data.catalog.coco import coco_panoptic
from panoptic_dl.data.errors import DatasetError

OFFICIAL_COUNTS = {"train": 118287, "val": 5000}
DOWNLOADS = """
Download by hand from cocodataset.org/#download, and unpack in {base}/:

  what                                 archive                                          size
  2017 Train images                    train2017.zip                                   18 GB
  2017 Val images                      val2017.zip                                      1 GB
  2017 Train/Val annotations           annotations_trainval2017.zip                   241 MB
  2017 Panoptic Train/Val annotations  panoptic_annotations_trainval2017.zip          821 MB

They become train2017/, val2017/ and annotations/. The last one brings two more archives,
annotations/panoptic_train2017.zip and annotations/panoptic_val2017.zip: unpack them in {base}/ too,
they become panoptic_train2017/ and panoptic_val2017/.
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", metavar="ROOT", help="folder that holds coco/")
    root = parser.parse_args().root
    problems = []
    for split, official in OFFICIAL_COUNTS.items():
        try:
            name = coco_panoptic(root=root, split=split)
        except DatasetError as error:
            problems.append(str(error))
            continue
        count = len(DatasetCatalog.get(name))
        note = "complete" if count == official else f"a part of the official {official}"
        print(f"{split}: {count} images, {note}")
    if problems:
        sys.exit("\n\n".join(problems) + "\n" + DOWNLOADS.format(base=f"{root}/coco"))


if __name__ == "__main__":
    main()

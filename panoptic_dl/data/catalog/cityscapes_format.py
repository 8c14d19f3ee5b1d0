"""Own data in Cityscapes' folders, with any categories.

    <root>/
      gtFine/cityscapes_panoptic_<split>.json          categories, images, segments
      gtFine/cityscapes_panoptic_<split>/<file_name>   PNGs, as in COCO's panoptic format
      leftImg8bit/<split>/<city>/<image id>_leftImg8bit.png     or .jpg, .tif, ...

That is what the official `createPanopticImgs` leaves. Nothing else of Cityscapes is needed: neither
polygons nor PNGs of labels, instances or train ids.
"""

import os
from pathlib import Path
from typing import Any

from panoptic_dl.data.catalog.own_split import Format, Images
from panoptic_dl.data.errors import DatasetError

SUFFIX = "_leftImg8bit"


def _by_id(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    """`<city>/<image id>_leftImg8bit.<any>`; "file_name" in the official files names no such file.

    Raises:
        DatasetError: an image has several such files.
    """
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            stem = os.path.splitext(name)[0]
            if not stem.endswith(SUFFIX):
                continue
            path, number = os.path.join(place, name), stem.removesuffix(SUFFIX)
            if number in found:
                raise DatasetError(
                    f"two files are image {number} of {file}: {found[number]} and {path}; keep one"
                )
            found[number] = path
    return {
        number: os.path.relpath(found[str(number)], folder)
        if str(number) in found
        else f"<city>/{number}{SUFFIX}.*"  # is missing, and named so
        for number in listed
    }


CITYSCAPES_FORMAT = Format(
    name="cityscapes_format",
    annotations=("gtFine/cityscapes_panoptic_{split}.json",),
    images=("leftImg8bit/{split}",),
    labels=("gtFine/cityscapes_panoptic_{split}",),
    find_images=_by_id,
)

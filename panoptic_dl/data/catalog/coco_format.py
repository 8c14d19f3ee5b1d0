"""Own data in COCO's panoptic format, with any categories.

    <root>/
      annotations/panoptic_<split>.json   categories, images, segments; or panoptic_<split>2017.json
      <split>/<file_name>                 images of any format that Pillow reads; or images/<split>/
      panoptic_<split>/<file_name>        PNGs: a segment's id = R + 256 G + 256^2 B, 0 where void

File names are those of the JSON file, and may have folders in them.
"""

from pathlib import Path
from typing import Any

from panoptic_dl.data.catalog.own_records import inside
from panoptic_dl.data.catalog.own_split import Format, Images

_NAMES = ("{split}", "{split}2017")


def _by_name(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    return {
        number: inside(image.get("file_name"), f'{file}: "file_name" of image {number!r}')
        for number, image in listed.items()
    }


COCO_FORMAT = Format(
    name="coco_format",
    annotations=tuple(f"annotations/panoptic_{name}.json" for name in _NAMES),
    images=(*_NAMES, *(f"images/{name}" for name in _NAMES), "images", "."),
    labels=(
        *(f"panoptic_{name}" for name in _NAMES),
        *(f"annotations/panoptic_{name}" for name in _NAMES),  # where COCO's archives lie
        ".",
    ),
    find_images=_by_name,
)

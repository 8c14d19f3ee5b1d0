"""The official archives: their names, sizes and what is in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from panoptic_dl.data.work import size_text


@dataclass(frozen=True)
class Kind:
    """One archive as its authors offer it.

    Attributes:
        name: of the file.
        size: of the official file in bytes.
        takes: pattern of the members that are unpacked; an archive with one such is of this kind,
            whatever its name.
        again: what to do when it is damaged.
    """

    name: str
    size: int
    takes: re.Pattern[str]
    again: str = "Download it again; `wget -c` and `csDownload --resume` go on with a part"

    def has_name(self, name: str) -> bool:
        """Whether a file is called so, or as browsers call a second download of it."""
        stem, suffix = self.name.rsplit(".", 1)
        pattern = rf"{re.escape(stem)}( ?\(\d+\)|[-_ ]?\d+)?\.{suffix}"
        return re.fullmatch(pattern, name, re.IGNORECASE) is not None


CITYSCAPES = (
    Kind(
        "leftImg8bit_trainvaltest.zip",
        11_592_327_197,
        re.compile(r"leftImg8bit/(train|val|test)/[\w-]+/[\w-]+_leftImg8bit\.png"),
    ),
    Kind(
        "gtFine_trainvaltest.zip",
        252_567_705,
        re.compile(
            r"gtFine/(train|val|test)/[\w-]+/[\w-]+_gtFine_"
            r"(polygons\.json|(color|instanceIds|labelIds)\.png)"
        ),
    ),
)
COCO = (
    Kind("train2017.zip", 19_336_861_798, re.compile(r"train2017/\d{12}\.jpg")),
    Kind("val2017.zip", 815_585_330, re.compile(r"val2017/\d{12}\.jpg")),
    Kind(
        "annotations_trainval2017.zip",
        252_907_541,
        re.compile(r"annotations/(instances|captions|person_keypoints)_(train|val)2017\.json"),
    ),
    Kind(
        "panoptic_annotations_trainval2017.zip",
        860_725_834,
        re.compile(r"annotations/panoptic_(train|val)2017\.(json|zip)"),
    ),
)
# What the last of them brings in annotations/: archives of the label images.
COCO_NESTED = tuple(
    Kind(
        f"panoptic_{split}2017.zip",
        0,
        re.compile(rf"panoptic_{split}2017/\d{{12}}\.png"),
        again="Delete it and run this again: it is in panoptic_annotations_trainval2017.zip",
    )
    for split in ("train", "val")
)


def download_table(kinds: Sequence[Kind]) -> str:
    """Names and sizes, a line each."""
    width = max(len(kind.name) for kind in kinds)
    return "\n".join(
        f"  {kind.name:<{width}}  {kind.size:>14,} bytes ({size_text(kind.size)})" for kind in kinds
    )

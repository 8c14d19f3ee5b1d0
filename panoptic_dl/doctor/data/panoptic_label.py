"""A panoptic label against `segments_info` of its JSON file."""

from typing import Any

from .report import ImageReport
from .segments import Box, Segments

VOID = 0
NEAR = 2  # pixels that a side of a box may be off: scripts disagree about the last pixel


def compare_with_segments(
    file: str, segments: Segments, record: dict[str, Any], report: ImageReport
) -> None:
    """Note ids that only one of the two has, and areas and boxes that are not those of the pixels.

    Args:
        file: of the label.
        segments: of the label.
        record: "segments_info" is read.
    """
    areas = segments.areas()
    infos = {s["id"]: s for s in record.get("segments_info", ()) if "id" in s}
    for number in sorted(set(areas) - set(infos) - {VOID}):
        report.add(
            "label ids", f"{file}: id {number} ({areas[number]} pixels) is not in segments_info"
        )
    for number in sorted(set(infos) - set(areas), key=str):
        report.add("label ids", f"{file}: segment {number} of segments_info has no pixel")
    if report.has("label ids"):
        return  # areas would say the same again
    boxes = segments.boxes()
    for number, info in infos.items():
        if "area" in info and info["area"] != areas[number]:
            report.add(
                "areas",
                f"{file}: segment {number} has area {info['area']} in the JSON file, but "
                f"{areas[number]} pixels",
            )
        if info.get("bbox") and not _near(info["bbox"], boxes[number]):
            report.add(
                "boxes",
                f"{file}: segment {number} has bbox {info['bbox']} in the JSON file, but its "
                f"pixels {list(boxes[number])} (left, top, width, height)",
                serious=False,
            )


def _near(listed: Any, box: Box) -> bool:
    """Whether all four sides are as they should be, give or take a few pixels."""
    try:
        left, top, width, height = (float(number) for number in listed)
    except (TypeError, ValueError):
        return False
    sides = (left, top, left + width, top + height)
    own = (box[0], box[1], box[0] + box[2], box[1] + box[3])
    return all(abs(a - b) <= NEAR for a, b in zip(sides, own, strict=True))

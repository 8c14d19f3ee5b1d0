"""Keeps the things of a scene from hiding one another too much."""

from __future__ import annotations

from panoptic_dl.data.toy.canvas import Layer
from panoptic_dl.data.toy.scene import Camera, Part

Box = tuple[float, float, float, float]


class Room:
    """The room of a picture that things have taken already.

    Args:
        size: (H, W) in pixels.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.taken: list[Box] = []

    def claim(self, parts: list[Part], overlap: float) -> bool:
        """Takes the room of parts that belong together.

        Args:
            parts: nothing is claimed for an empty list or a part without coverage.
            overlap: share of the smaller box that another's box may cover, 0..1.
        Returns:
            Whether there was room: the parts show and cover no other's box too much.
        """
        boxes = []
        for part in parts:
            box = part.layer.mask.getbbox()
            if box is None:
                return False
            s, layer = part.layer.scale, part.layer
            boxes.append(
                (
                    layer.x0 + box[0] / s,
                    layer.y0 + box[1] / s,
                    layer.x0 + box[2] / s,
                    layer.y0 + box[3] / s,
                )
            )
        if not boxes:
            return False
        left, top = min(b[0] for b in boxes), min(b[1] for b in boxes)
        right, bottom = max(b[2] for b in boxes), max(b[3] for b in boxes)
        union = (left, top, right, bottom)
        if right - left < 0.02 * self.size[0] or left >= self.size[1] - 3 or right <= 3:
            return False
        for other in self.taken:
            across = min(right, other[2]) - max(left, other[0])
            down = min(bottom, other[3]) - max(top, other[1])
            hidden = max(across, 0.0) * max(down, 0.0)
            if hidden > overlap * min(area_of(union), area_of(other)):
                return False
        self.taken.append(union)
        return True


def area_of(box: Box) -> float:
    """Area of (x0, y0, x1, y1)."""
    return (box[2] - box[0]) * (box[3] - box[1])


def merge_crowd(camera: Camera, label: str, members: list[Part]) -> Part:
    """Makes one crowd region ("cargroup", "persongroup") of things, drawn far to near."""
    members = sorted(members, key=lambda part: -part.depth)
    layers = [part.layer for part in members]
    group = Layer(
        camera.size,
        (
            min(layer.x0 for layer in layers) + 2,
            min(layer.y0 for layer in layers) + 2,
            max(layer.x1 for layer in layers) - 3,
            max(layer.y1 for layer in layers) - 3,
        ),
        camera.scale,
    )
    for layer in layers:
        place = ((layer.x0 - group.x0) * group.scale, (layer.y0 - group.y0) * group.scale)
        group.colours.paste(layer.colours, place, layer.mask)
        group.mask.paste(255, place, layer.mask)
    return Part(label, group, min(p.depth for p in members), is_crowd=True)

"""Colors of classes and instances, and text that can be read on any picture."""

import numpy as np

from panoptic_dl.visualize.style import (
    TextBox,
    draw_text_boxes,
    text_size,
)


def test_text_grows_with_the_picture_and_is_told_from_its_ground():
    sizes = [text_size((side, side)) for side in (64, 512, 1024, 4000)]
    assert sizes == sorted(sizes)
    assert sizes[0] == 10
    assert sizes[-1] > 4 * sizes[1]
    for ground in (0, 128, 255):  # any picture below
        box = TextBox("word", 20, (0, 0, 60))
        picture = draw_text_boxes(np.full((60, 120, 3), ground, np.uint8), [(box, 10, 10)])
        high, wide = box.extent
        inside = picture[10 : 10 + high, 10 : 10 + wide].astype(int)
        assert inside.max() > 240
        assert np.median(inside) < 80

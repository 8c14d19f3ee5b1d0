"""PASCAL VOC, and CVAT's "Segmentation mask 1.1" in its layout."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import VOCSegmentation

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.voc import read
from tests.datasets.official_folders import (
    photo,
    save,
    segments_of,
    voc_labels,
    voc_palette,
    write_voc,
)

LABELMAP = (
    "# label:color_rgb:parts:actions\nbackground:0,0,0::\n"
    "screw:250,50,83::\nnut M5:51,221,255:hand,head:\n"
)
COLORS = np.array([(0, 0, 0), (250, 50, 83), (51, 221, 255)])


def test_images_and_classes_are_those_of_torchvision(tmp_path):
    export = read(write_voc(tmp_path, train=2, val=1))
    assert not export.notes
    assert set(export.splits) == {"train", "val"}
    for split, samples in export.splits.items():
        theirs = VOCSegmentation(str(tmp_path), year="2012", image_set=split, download=False)
        assert [str(sample.image) for sample in samples] == theirs.images
        for sample, (_, target) in zip(samples, theirs, strict=True):
            ids, segments = sample.label()
            classes = np.array([255, *(segments[i][0] for i in range(1, len(segments) + 1))])
            np.testing.assert_array_equal(classes[ids], np.asarray(target))


def test_objects_of_things_are_told_apart(tmp_path):
    sample = read(write_voc(tmp_path, train=1, val=1) / "VOCdevkit" / "VOC2012").splits["train"][0]
    classes, objects = voc_labels()
    wanted = {(15, 0, (objects == number).tobytes()) for number in (1, 2)}
    wanted |= {(18, 0, (objects == 3).tobytes()), (0, 0, (classes == 0).tobytes())}
    assert segments_of(*sample.label()) == wanted


def test_the_table_is_the_official_one(tmp_path):
    table = read(write_voc(tmp_path, train=1)).categories
    assert [color for category in table for color in category["color"]] == voc_palette()[: 3 * 21]
    assert [c["name"] for c in table if not c["isthing"]] == ["background"]
    assert (len(table), table[1]["name"], table[20]["name"]) == (21, "aeroplane", "tvmonitor")


@pytest.fixture(params=["RGB", "P", "L"])
def cvat(request, tmp_path):
    """An export of CVAT: colors as RGB or in palettes, or numbers, with names in folders."""
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    (lists / "default.txt").write_text('box 1/a\n"b c.d"\nempty\n')
    classes, objects = np.zeros((24, 32), int), np.zeros((24, 32), int)
    for number, (top, kind) in enumerate([(2, 1), (6, 1), (14, 2)], 1):
        classes[top : top + 4, 3:20] = kind
        objects[top : top + 4, 3:20] = number
    palette = np.zeros((256, 3), int)
    for index, name in enumerate(["box 1/a", "b c.d", "empty"]):
        photo(tmp_path / "JPEGImages" / f"{name}.jpg", index)
        for folder, label, colors in (
            ("SegmentationClass", classes, COLORS),
            ("SegmentationObject", objects, np.reshape(voc_palette(), (-1, 3))),
        ):
            if name == "empty":
                continue
            if request.param == "RGB":
                save(tmp_path / folder / f"{name}.png", colors[label])
            elif request.param == "L":
                save(tmp_path / folder / f"{name}.png", label)
            else:  # positions in a palette are not those in labelmap.txt
                palette[: len(colors)] = colors[::-1]
                table = palette.ravel().tolist()
                save(tmp_path / folder / f"{name}.png", len(colors) - 1 - label, table)
    return tmp_path, classes, objects


def test_an_export_of_cvat_has_its_own_classes(cvat):
    root, classes, objects = cvat
    export = read(root)
    assert [(c["id"], c["name"], c["isthing"], tuple(c["color"])) for c in export.categories] == [
        (0, "background", 0, (0, 0, 0)),
        (1, "screw", 1, (250, 50, 83)),
        (2, "nut M5", 1, (51, 221, 255)),
    ]
    assert export.notes == ["default: 1 of 3 images have no label, left out"]
    images = [str(s.image.relative_to(root / "JPEGImages")) for s in export.splits["train"]]
    assert images == ["box 1/a.jpg", "b c.d.jpg"]
    wanted = {(0, 0, (classes == 0).tobytes()), (2, 0, (objects == 3).tobytes())}
    wanted |= {(1, 0, (objects == number).tobytes()) for number in (1, 2)}
    for sample in export.splits["train"]:
        assert segments_of(*sample.label()) == wanted


def test_the_border_that_datumaro_lists_is_no_class(cvat):
    root, _, _ = cvat
    (root / "labelmap.txt").write_text(LABELMAP + "ignored:224,224,192::\n")
    assert [category["id"] for category in read(root).categories] == [0, 1, 2]


@pytest.mark.parametrize("cvat", ["RGB", "P"], indirect=True)
def test_black_is_void_where_no_class_has_it(cvat):
    root, classes, objects = cvat
    (root / "labelmap.txt").write_text(LABELMAP.replace("background:0,0,0::\n", ""))
    ids, segments = read(root).splits["train"][0].label()
    wanted = {(1, 0, (objects == 3).tobytes())}
    wanted |= {(0, 0, (objects == number).tobytes()) for number in (1, 2)}
    assert segments_of(ids, segments) == wanted
    assert np.array_equal(ids == 0, classes == 0)


def test_things_without_objects_are_crowds(cvat):
    root, classes, _ = cvat
    (root / "SegmentationObject" / "b c.d.png").unlink()
    found = segments_of(*read(root).splits["train"][1].label())
    assert found == {(kind, int(kind > 0), (classes == kind).tobytes()) for kind in (0, 1, 2)}


def test_what_is_wrong_is_named(tmp_path):
    root = write_voc(tmp_path, train=1, val=1)
    base = root / "VOCdevkit" / "VOC2012"
    sample = read(root).splits["val"][0]
    file = base / "SegmentationClass" / f"{sample.image.stem}.png"
    save(file, np.full((24, 32, 3), (1, 2, 3)))
    with pytest.raises(DatasetError, match=r"has the color \[1, 2, 3\], which no class"):
        sample.label()
    save(file, np.full((24, 32), 21))
    with pytest.raises(DatasetError, match="holds 21, which is no class"):
        sample.label()
    save(file, np.zeros((24, 31)))
    with pytest.raises(DatasetError, match="different sizes"):
        sample.label()
    (base / "labelmap.txt").write_text("screw 1,2,3\n")
    with pytest.raises(DatasetError, match=r"'screw 1,2,3' has no color; write name:red,green"):
        read(root)
    sample.image.unlink()
    (base / "labelmap.txt").unlink()
    with pytest.raises(DatasetError, match=r"1 of 1 images of .*val\.txt are missing(?s:.)*CVAT"):
        read(root)
    for png in (base / "SegmentationClass").iterdir():
        png.unlink()
    for name in ("val", "trainval"):
        (base / "ImageSets" / "Segmentation" / f"{name}.txt").unlink()
    with pytest.raises(DatasetError, match="has a label"):
        read(root)
    assert Image.open(base / "SegmentationObject" / "2007_000000.png").mode == "P"

"""Images with masks: how they are paired, what their numbers mean, and what is refused."""

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.formats.masks import read, read_table, recognize

SIZE = (4, 6)
NUMBERS = np.array([[0, 0, 1, 1, 2, 2]] * 4, np.uint8)


def image(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", SIZE[::-1]).save(root / name)


def mask(root, *names, numbers=NUMBERS, palette=None):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(numbers)
        if palette is not None:
            picture.putpalette(palette)
        picture.save(root / name)


def classes(root, **options):
    """The name of the class of each column of the first image."""
    export = read(root, **options)
    (sample, *_) = next(iter(export.splits.values()))
    ids, segments = sample.label()
    names = {c["id"]: c["name"] for c in export.categories}
    return [names[segments[i][0]] if i else "" for i in ids[0].tolist()]


@pytest.mark.parametrize(
    ("images", "masks", "options"),
    [
        ("images/{}.jpg", "masks/{}.png", {}),
        ("images/{}.png", "labels/{}.png", {}),
        ("train/images/{}.jpg", "train/masks/{}.png", {}),
        ("images/train/{}.jpg", "annotations/train/{}.png", {}),
        ("img_dir/train/{}.jpg", "ann_dir/train/{}.png", {}),
        ("train/{}.jpg", "train/{}_mask.png", {}),
        ("{}.jpg", "{}_mask.png", {}),
        ("train/{}.png", "train_labels/{}_L.png", {}),
        ("train_images/{}.jpg", "train_masks/{}.png", {}),
        ("train/{}.png", "trainannot/{}.png", {}),
        ("images/{}.jpg", "masks/{}_mask.png", {}),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", {}),
        ("leftImg8bit/train/x/{}_leftImg8bit.png", "gtFine/train/x/{}_gtFine_labelIds.png", {}),
        ("a/{}.jpg", "a/{}-what-it-is.png", {"masks": "*-what-it-is.png"}),
        ("data/{}.png", "truth/{}.png", {"masks": "truth/*.png"}),
    ],
)
def test_masks_are_found_by_folder_ending_or_pattern(tmp_path, images, masks, options):
    image(tmp_path, images.format("one"), images.format("two"))
    mask(tmp_path, masks.format("one"), masks.format("two"))
    (tmp_path / "._one.png").write_bytes(b"\0\5\x16\7")  # what macOS leaves
    (tmp_path / "classes.txt").write_text("sky\nball\nbox\n")
    if not options:
        assert recognize(tmp_path) == "2 images with a mask each"
    export = read(tmp_path, **options)
    assert [s.image.relative_to(tmp_path).as_posix() for s in export.splits["train"]] == [
        images.format("one"),
        images.format("two"),
    ]
    assert classes(tmp_path, **options) == ["sky", "sky", "ball", "ball", "box", "box"]


def test_splits_are_folders_or_lists(tmp_path):
    image(tmp_path, *(f"images/{name}.jpg" for name in "abcd"))
    mask(tmp_path, *(f"masks/{name}.png" for name in "abcd"))
    (tmp_path / "val.txt").write_text("c 1\n")

    def splits(notes):
        export = read(tmp_path)
        assert export.notes[1:] == notes
        return {k: [s.image.stem for s in v] for k, v in export.splits.items()}

    assert splits([]) == {"train": ["a", "b", "d"], "val": ["c"]}  # the others are to train on
    (tmp_path / "train.txt").write_text("a\nimages/b.jpg\n")
    note = "1 of 4 images are in no list of names, and are left out"
    assert splits([note]) == {"train": ["a", "b"], "val": ["c"]}
    (tmp_path / "images" / "b.jpg").rename(tmp_path / "images" / "my b.v2.jpg")
    (tmp_path / "masks" / "b.png").rename(tmp_path / "masks" / "my b.v2.png")
    for line in ("my b.v2", "images/my b.v2.jpg"):
        (tmp_path / "train.txt").write_text(f"a\n{line}\n")
        assert splits([note])["train"] == ["a", "my b.v2"]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("classes.yaml", "0: sky\n1: ball\n2: box\n"),
        ("classes.yaml", "[sky, ball, box]"),
        ("dataset.yaml", "names: {0: sky, 1: ball, 2: box}"),
        (
            "labels.json",
            '[{"id": 2, "name": "box"}, {"id": 0, "name": "sky"}, {"id": 1, "name": "ball"}]',
        ),
        (
            "labels.json",
            '{"categories": [{"id": 0, "name": "sky"}, {"name": "ball"}, {"name": "box"}]}',
        ),
        ("_classes.csv", "Pixel Value, Class\n0, sky\n1, ball\n2, box\n"),
        ("class_dict.csv", "name,r,g,b\nsky,0,0,0\nball,9,0,0\nbox,0,9,0\n"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nsky:0,0,0::\nball:9,0,0::\nbox:0,9,0::\n",
        ),
        ("names.txt", "sky\nball\nbox\n"),
        ("id2label.json", '{"0": "sky", "1": "ball", "2": "box"}'),
    ],
)
def test_names_come_from_files_of_every_kind(tmp_path, file, text):
    (tmp_path / file).write_text(text)
    table = read_table(tmp_path / file)
    assert {n: row["name"] for n, row in table.items()} == {0: "sky", 1: "ball", 2: "box"}
    image(tmp_path, "images/a.jpg")
    mask(tmp_path, "masks/a.png")
    assert classes(tmp_path) == ["sky", "sky", "ball", "ball", "box", "box"]
    if "9,0" in text:  # colors, as colors or in a palette of another order
        colors = np.array([(0, 0, 0), (9, 0, 0), (0, 9, 0)], np.uint8)
        Image.fromarray(colors[NUMBERS]).save(tmp_path / "masks" / "a.png")
        assert classes(tmp_path) == ["sky", "sky", "ball", "ball", "box", "box"]
        mask(tmp_path, "masks/a.png", numbers=2 - NUMBERS, palette=colors[::-1].ravel().tolist())
        assert classes(tmp_path) == ["sky", "sky", "ball", "ball", "box", "box"]


def test_without_names_classes_are_numbers_in_the_colors_of_the_palette(tmp_path):
    image(tmp_path, "images/a.jpg")
    mask(tmp_path, "masks/a.png", palette=[1, 2, 3, 40, 50, 60, 7, 8, 9])
    export = read(tmp_path, mask_ignore_label=0)
    assert [(c["id"], c["name"], c["color"]) for c in export.categories] == [
        (1, "class 1", [40, 50, 60]),
        (2, "class 2", [7, 8, 9]),
    ]
    assert "classes.yaml" in export.notes[0]
    assert classes(tmp_path, mask_ignore_label=0)[:3] == ["", "", "class 1"]


def test_0_and_255_are_two_classes(tmp_path):
    image(tmp_path, "images/a.jpg")
    mask(tmp_path, "masks/a.png", numbers=np.where(NUMBERS == 1, 255, 0).astype(np.uint8))
    assert set(classes(tmp_path)) == {"background", "foreground"}
    (tmp_path / "classes.yaml").write_text("[sky, ball]")
    with pytest.raises(DatasetError, match="hold 0 and 255, and 255 is none of the classes"):
        read(tmp_path)
    (tmp_path / "classes.yaml").write_text("{0: sky, 255: ball}")
    assert set(classes(tmp_path)) == {"sky", "ball"}


def test_what_does_not_fit_is_named(tmp_path):
    with pytest.raises(DatasetError, match=r"no images with masks below .*dataset.masks="):
        read(tmp_path)
    image(tmp_path, "images/a.jpg", "images/b.jpg")
    mask(tmp_path, "masks/a.png")
    with pytest.raises(DatasetError, match=r"b.jpg has no mask \(1 such files\)"):
        read(tmp_path)
    (tmp_path / "images" / "b.jpg").unlink()
    image(tmp_path, "images/a.png")
    with pytest.raises(DatasetError, match=r"a.jpg and .*a.png have one name"):
        read(tmp_path)
    (tmp_path / "images" / "a.png").unlink()
    mask(tmp_path, "masks/c.png")
    with pytest.raises(DatasetError, match=r"c.png has no image"):
        read(tmp_path)
    (tmp_path / "masks" / "c.png").unlink()
    (tmp_path / "classes.yaml").write_text("[sky, ball]")
    with pytest.raises(
        DatasetError, match=r"a.png holds 2, which is no class.*mask_ignore_label=2"
    ):
        classes(tmp_path)
    assert classes(tmp_path, mask_ignore_label=2)[-1] == ""
    for text in ("[sky, ball", "0: no\n1: yes\n2: box\n"):  # torn; and what YAML takes for false
        (tmp_path / "classes.yaml").write_text(text)
        with pytest.raises(DatasetError, match=r"classes.yaml names no classes: write lines"):
            read(tmp_path)
    (tmp_path / "classes.yaml").unlink()
    with pytest.raises(DatasetError, match=r"other.yaml names no classes"):
        read(tmp_path, names="other.yaml")
    Image.fromarray(np.stack([NUMBERS * 9] * 2 + [NUMBERS], -1)).save(tmp_path / "masks" / "a.png")
    with pytest.raises(DatasetError, match="it has colors"):
        read(tmp_path)
    (tmp_path / "class_dict.csv").write_text("name,r,g,b\nsky,0,0,0\n")
    with pytest.raises(DatasetError, match=r"has the color \[9, 9, 1\], which no class"):
        classes(tmp_path)

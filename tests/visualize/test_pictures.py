"""Pictures show every segment, keep void visible, and are written whole."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.visualize.evaluator import PictureEvaluator, ground_truth_map
from panoptic_dl.visualize.segmentation import SegmentDrawer
from panoptic_dl.visualize.sheets import save_gallery, save_sheet
from panoptic_dl.visualize.style import class_colors, instance_color

COLORS = np.asarray([[200, 0, 0], [0, 200, 0]], np.uint8)


def draw(panoptic, opacity=1.0):
    image = np.full((*panoptic.shape, 3), 100, np.uint8)
    drawer = SegmentDrawer(
        names=("building", "car"),
        colors=COLORS,
        thing_ids=[1],
        label_divisor=1000,
        opacity=opacity,
    )
    return drawer.panoptic(image, panoptic)


def test_stuff_has_its_class_colour_and_instances_have_shades():
    panoptic = np.zeros((9, 30), np.int64)
    panoptic[:, 10:20], panoptic[:, 20:] = 1001, 1002
    picture = draw(panoptic)
    assert tuple(picture[4, 5]) == (200, 0, 0)
    first, second = picture[4, 15], picture[4, 25]
    assert tuple(first) == tuple(instance_color(COLORS[1], 1))
    assert tuple(first) != tuple(second)
    assert (picture[:, 10] > picture[4, 12]).any()  # an outline between segments


def test_void_keeps_the_image_darkened():
    picture = draw(np.full((6, 6), -1), opacity=0.6)
    assert (picture == 40).all()


@pytest.mark.parametrize("panoptic", [np.full((1, 1), 1001), np.arange(12).reshape(3, 4) + 1000])
def test_tiny_segments_draw(panoptic):
    assert draw(panoptic).shape == (*panoptic.shape, 3)


def test_large_segments_are_named_inside_themselves():
    ring = np.zeros((120, 160), np.int64)
    ring[30:90, 40:120] = -1  # the ring's centre of mass is not in the ring
    picture = draw(ring)
    text = (picture > 240).all(axis=-1)
    assert text.any()
    assert not text[32:88, 42:118].any()


def test_colours_come_from_metadata_or_differ():
    class Metadata(dict):
        pass

    own = [[1, 2, 3], [4, 5, 6]]
    assert class_colors(Metadata(stuff_colors=own), 2).tolist() == own
    made = class_colors(Metadata(stuff_colors=own), 133)
    assert len({tuple(c) for c in made}) == 133


def test_a_sheet_has_a_row_for_each_image(tmp_path):
    rows = [[np.full((40, 80, 3), 9, np.uint8)] * 3, [np.full((80, 40, 3), 9, np.uint8)] * 3]
    save_sheet(rows, ("x", "y", "z"), tmp_path / "new" / "s.png", cell_width=80, gap=8)
    with Image.open(tmp_path / "new" / "s.png") as sheet:
        assert sheet.size == (3 * 88 + 8, 34 + (40 + 8) + (160 + 8))


@pytest.fixture
def records(tmp_path):
    Image.new("RGB", (8, 6), "gray").save(tmp_path / "i.jpg")
    ids = np.zeros((6, 8), np.uint32)
    ids[:2], ids[2:4] = 70000, 3
    Image.fromarray(id2rgb(ids)).save(tmp_path / "p.png")
    Image.fromarray(np.asarray([[0, 1, 255, 0]], np.uint8)).save(tmp_path / "s.png")
    segments = [{"id": 70000, "category_id": 1}, {"id": 3, "category_id": 0}]
    panoptic = {"file_name": str(tmp_path / "i.jpg"), "pan_seg_file_name": str(tmp_path / "p.png")}
    return [panoptic | {"segments_info": segments}, {"sem_seg_file_name": str(tmp_path / "s.png")}]


def test_truth_of_panoptic_and_semantic_records(records):
    truth = ground_truth_map(records[0], {1}, 1000)
    assert truth[:, 0].tolist() == [1001, 1001, 0, 0, -1, -1]
    assert ground_truth_map(records[1], {1}, 1000).tolist() == [[0, 1000, -1, 0]]


def test_the_evaluator_draws_the_first_images_only(records, tmp_path):
    import torch

    name = f"pictures_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records[:1])
    MetadataCatalog.get(name).set(
        stuff_classes=["a", "b"], thing_dataset_id_to_contiguous_id={1: 1}, label_divisor=1000
    )
    evaluator = PictureEvaluator(name, 1, tmp_path / "out.png", tmp_path / "gallery")
    evaluator.reset()
    output = {"panoptic_seg": (torch.zeros(6, 8, dtype=torch.int64), None)}
    evaluator.process(records[:1], [output])
    evaluator.process(records[:1], [{"sem_seg": torch.randn(2, 6, 8)}])
    assert len(evaluator.rows) == 1
    assert evaluator.evaluate() == {}
    assert (tmp_path / "out.png").is_file()
    kinds = ("image", "prediction", "truth")
    gallery = sorted(file.name for file in (tmp_path / "gallery").iterdir())
    assert gallery == [f"i_{kind}.jpg" for kind in kinds]


def test_a_gallery_has_each_picture_once_and_none_of_an_earlier_evaluation(tmp_path):
    folder = tmp_path / "gallery"
    row = [np.full((900, 1800, 3), shade, np.uint8) for shade in (10, 120, 240)]
    save_gallery(["old"], [row], folder)
    (folder / "notes.txt").write_text("mine")
    small = [np.full((1, 3, 3), 7, np.uint8)] * 3
    save_gallery(["a/b", "a:b", "a" * 300], [row, small, small], folder)
    names = ["a_b", "a_b-2", "a" * 120]
    wanted = {f"{name}_{kind}.jpg" for name in names for kind in ("image", "truth", "prediction")}
    assert {file.name for file in folder.iterdir()} == wanted | {"notes.txt"}
    for kind, shade in (("image", 10), ("truth", 120), ("prediction", 240)):
        with Image.open(folder / f"a_b_{kind}.jpg") as picture:
            assert picture.size == (640, 320)
            assert abs(int(np.asarray(picture).mean()) - shade) <= 1
    with Image.open(folder / "a_b-2_truth.jpg") as picture:
        assert picture.size == (3, 1)  # never enlarged

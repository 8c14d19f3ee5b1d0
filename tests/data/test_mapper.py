"""Samples equal those of Detectron2's mappers; damaged and ill-fitting files are named."""

import copy
import json
import pickle
import shutil

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from detectron2.projects.panoptic_deeplab import PanopticDeeplabDatasetMapper
from detectron2.projects.panoptic_deeplab.target_generator import PanopticDeepLabTargetGenerator
from panopticapi.utils import id2rgb, rgb2id
from PIL import Image, ImageFile

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.images import SemanticLabelReader
from panoptic_dl.data.loader import TrainLoader
from panoptic_dl.data.mapper import (
    CopyPaste,
    PanopticTrainMapper,
    SemanticTrainMapper,
    TestMapper,
    TruthMapper,
)
from tests.datasets.tiny_datasets import panoptic_mapper

THINGS = {"cityscapes": list(range(11, 19)), "coco": list(range(80))}
NUM_CLASSES = {"cityscapes": 19, "coco": 133}


def augmentations(crop=(32, 40)):
    return [
        T.ResizeShortestEdge([32, 48, 64], 128, "choice"),
        T.RandomCrop("absolute", list(crop)),
        T.RandomFlip(),
    ]


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        if isinstance(value, torch.Tensor):
            assert ours[key].dtype == value.dtype, key
            assert torch.equal(ours[key], value), key
        else:
            assert ours[key] == value, key


def sample(mapper, record, seed):
    np.random.seed(seed)  # noqa: NPY002
    return mapper(copy.deepcopy(record))


@pytest.mark.parametrize("dataset", ["cityscapes", "coco"])
@pytest.mark.parametrize("ignore_crowd", [False, True])
@pytest.mark.parametrize("ignore_stuff", [False, True])
def test_panoptic_samples_equal_those_of_detectron2(records, dataset, ignore_crowd, ignore_stuff):
    ours = PanopticTrainMapper(
        augmentations=augmentations(),
        num_classes=NUM_CLASSES[dataset],
        thing_ids=THINGS[dataset],
        gaussian_sigma=3,
        small_instance_area=200,
        small_instance_weight=3,
        ignore_stuff_in_offset=ignore_stuff,
        ignore_crowd_in_semantic=ignore_crowd,
    )
    theirs = PanopticDeeplabDatasetMapper(
        augmentations=augmentations(),
        image_format="RGB",
        panoptic_target_generator=PanopticDeepLabTargetGenerator(
            ignore_label=255,
            thing_ids=THINGS[dataset],
            sigma=3,
            ignore_stuff_in_offset=ignore_stuff,
            small_instance_area=200,
            small_instance_weight=3,
            ignore_crowd_in_semantic=ignore_crowd,
        ),
    )
    weights = set()
    for record in records[dataset]:
        for seed in range(4):
            made = sample(ours, record, seed)
            assert_equal(made, sample(theirs, record, seed))
            weights |= set(made["sem_seg_weights"].unique().tolist())
    assert weights == {1.0, 3.0}
    assert {made[key].shape[-2:] for key in ("image", "sem_seg", "center", "offset")} == {
        made["image"].shape[-2:]
    }


@pytest.mark.parametrize("max_area", [1.0, 0.6])
def test_semantic_samples_equal_those_of_detectron2(records, max_area):
    def augment():
        crop = T.RandomCrop_CategoryAreaConstraint(
            "absolute", [32, 40], single_category_max_area=max_area, ignored_category=255
        )
        return [T.ResizeShortestEdge([32, 64], 128, "choice"), crop, T.RandomFlip()]

    ours = SemanticTrainMapper(augmentations=augment(), num_classes=19)
    theirs = DatasetMapper(True, augmentations=augment(), image_format="RGB")
    for record in records["cityscapes_semantic"]:
        for seed in range(6):
            assert_equal(sample(ours, record, seed), sample(theirs, record, seed))


def test_semantic_labels_of_coco_come_from_the_panoptic_png(records):
    mapper = SemanticTrainMapper(augmentations=[T.NoOpTransform()], num_classes=133)
    for record in records["coco_semantic"]:
        made = mapper(record)
        assert made.keys() == {"file_name", "image_id", "height", "width", "image", "sem_seg"}
        ids = rgb2id(read_image(record["pan_seg_file_name"], "RGB"))
        expected = np.full(ids.shape, 255)
        for segment in record["segments_info"]:
            expected[ids == segment["id"]] = segment["category_id"]
        assert np.array_equal(made["sem_seg"].numpy(), expected)
        assert set(np.unique(expected)) == {0, 79, 132, 255}
    # The next label must not see the ids of the one before.
    again = mapper(records["coco_semantic"][0])
    assert torch.equal(again["sem_seg"], mapper(records["coco_semantic"][0])["sem_seg"])


def test_semantic_and_panoptic_mappers_agree_on_cityscapes(records):
    reader = SemanticLabelReader(num_classes=19)
    for semantic, panoptic in zip(
        records["cityscapes_semantic"],
        sorted(records["cityscapes"], key=lambda r: r["file_name"]),
        strict=True,
    ):
        derived = dict(panoptic)
        del derived["sem_seg_file_name"]
        assert np.array_equal(reader(semantic), reader(derived))


def test_test_samples_equal_those_of_detectron2(records):
    resize = [T.ResizeShortestEdge(40, 64, "choice")]
    ours = TestMapper(augmentations=resize)
    theirs = DatasetMapper(False, augmentations=resize, image_format="RGB")
    for record in records["coco"]:
        assert_equal(ours(record), theirs(copy.deepcopy(record)))
    made = ours(records["cityscapes"][0])
    assert made["image"].shape == (3, 32, 64)
    assert (made["height"], made["width"]) == (48, 96)
    assert made["image_id"] == "aachen_000000_000019"


def test_bgr_is_rgb_turned_round(records):
    rgb, bgr = (
        TestMapper(augmentations=[T.NoOpTransform()], image_format=f)(records["coco"][0])["image"]
        for f in ("RGB", "BGR")
    )
    assert torch.equal(rgb, bgr.flip(0))
    assert not torch.equal(rgb, bgr)


def test_a_crop_larger_than_the_image_takes_all_of_it(records):
    mapper = panoptic_mapper([T.RandomCrop("absolute", [500, 500])])
    assert mapper(records["coco"][0])["image"].shape == (3, 80, 60)


def test_records_are_left_as_they_are(records):
    record = records["coco"][0]
    before = copy.deepcopy(record)
    panoptic_mapper()(record)
    SemanticTrainMapper(augmentations=[], num_classes=133)(record)
    TestMapper(augmentations=[])(record)
    assert record == before


def test_mappers_travel_to_worker_processes(records):
    mapper = panoptic_mapper()
    mapper(records["coco"][0])
    assert len(pickle.dumps(mapper)) < 100_000  # without the look-up table
    assert_equal(pickle.loads(pickle.dumps(mapper))(records["coco"][0]), mapper(records["coco"][0]))


@pytest.fixture
def record(root, records, tmp_path):
    """A record of COCO whose files may be damaged."""
    record = copy.deepcopy(records["coco"][0])
    for key in ("file_name", "pan_seg_file_name"):
        record[key] = shutil.copy(record[key], tmp_path)
    return record


def mappers():
    return {
        "panoptic": panoptic_mapper(),
        "semantic": SemanticTrainMapper(augmentations=[], num_classes=133),
        "test": TestMapper(augmentations=[]),
    }


@pytest.mark.parametrize("kind", ["panoptic", "semantic", "test"])
@pytest.mark.parametrize("allow_truncated", [False, True])
@pytest.mark.parametrize("size", [0, 20, 700])
def test_a_truncated_image_is_named(record, kind, allow_truncated, size, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", allow_truncated)
    with open(record["file_name"], "r+b") as file:
        file.truncate(size)
    with pytest.raises(DatasetError, match=f"cannot read {record['file_name']}.*truncated"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_truncated_label_is_named(record, kind):
    with open(record["pan_seg_file_name"], "r+b") as file:
        file.truncate(120)
    with pytest.raises(DatasetError, match=f"cannot read {record['pan_seg_file_name']}"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic", "test"])
def test_a_missing_image_is_named(record, kind):
    record["file_name"] += ".gone"
    with pytest.raises(DatasetError, match=f"cannot read {record['file_name']} .missing"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_a_label_of_another_size_is_named(record, kind):
    Image.new("RGB", (60, 79)).save(record["pan_seg_file_name"])
    with pytest.raises(DatasetError, match=r"sizes differ: .*\.png is 60 x 79, .*jpg is 60 x 80"):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
@pytest.mark.parametrize("category", [133, -1])
def test_a_category_outside_the_classes_is_named(record, kind, category):
    record["segments_info"][1]["category_id"] = category
    identity = record["segments_info"][1]["id"]
    with pytest.raises(
        DatasetError,
        match=rf"{record['pan_seg_file_name']}: segment {identity} has category {category},",
    ):
        mappers()[kind](record)


@pytest.mark.parametrize("kind", ["panoptic", "semantic"])
def test_an_id_without_a_segment_is_named(record, kind):
    ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
    ids[70:72, 0:3] = 12345
    Image.fromarray(id2rgb(ids)).save(record["pan_seg_file_name"])
    with pytest.raises(
        DatasetError, match=rf"{record['pan_seg_file_name']}: id 12345 .*6 pixels of 1 such ids"
    ):
        mappers()[kind](record)


def test_the_whole_label_is_checked_not_only_the_crop(record):
    ids = rgb2id(np.array(Image.open(record["pan_seg_file_name"])))
    ids[79, 59] = 12345
    Image.fromarray(id2rgb(ids)).save(record["pan_seg_file_name"])
    mapper = panoptic_mapper([T.CropTransform(0, 0, 8, 8)])
    with pytest.raises(DatasetError, match="id 12345"):
        mapper(record)


def test_a_semantic_label_outside_the_classes_is_named(records, tmp_path):
    record = copy.deepcopy(records["cityscapes_semantic"][0])
    label = np.array(Image.open(record["sem_seg_file_name"]))
    label[:2, :5] = 33  # a label id among train ids
    record["sem_seg_file_name"] = str(tmp_path / "bad_labelTrainIds.png")
    Image.fromarray(label).save(record["sem_seg_file_name"])
    mapper = SemanticTrainMapper(augmentations=[], num_classes=19)
    with pytest.raises(
        DatasetError, match=r"bad_labelTrainIds.png: label id 33 \(10 pixels\).*0\.\.18"
    ):
        mapper(record)


def test_annotations_of_the_fixture_have_a_crowd_and_void(root):
    content = json.loads((root / "coco/annotations/panoptic_train2017.json").read_text())
    assert any(s["iscrowd"] for a in content["annotations"] for s in a["segments_info"])


NUMBERS = {"num_classes": 133, "thing_ids": range(80), "gaussian_sigma": 3}


def make(augmentations=(), **changes):
    mapper = TestMapper(augmentations=list(augmentations))
    return TruthMapper(mapper=mapper, **NUMBERS | changes)


@pytest.mark.parametrize("index", range(3))
def test_truth_is_the_targets_of_training_without_augmentation(records, index):
    record = records["coco"][index]
    sample, trained = make()(record), panoptic_mapper()(record)
    truth = sample["truth"]
    assert torch.equal(sample["image"], trained["image"])
    assert torch.equal(truth.classes, trained["sem_seg"])
    assert torch.equal(truth.labeled, trained["sem_seg"] != 255)
    assert torch.equal(truth.center[0], trained["center"])
    assert torch.equal(truth.offset, trained["offset"])
    # Things, crowds among them.
    assert torch.equal(truth.has_offset, trained["sem_seg"] < 80)
    assert (truth.has_offset & (trained["offset_weights"][0] == 0)).any()
    assert 0 < truth.has_offset.sum() < truth.labeled.sum() < truth.labeled.numel()


def test_truth_has_the_size_of_the_file_whatever_the_network_sees(records):
    from detectron2.data import transforms as T

    record = records["coco"][1]
    sample = make([T.Resize((30, 40))])(record)
    assert sample["image"].shape == (3, 30, 40)
    assert sample["truth"].offset.shape == (2, 60, 80)
    assert torch.equal(sample["truth"].offset, make()(record)["truth"].offset)


def test_crowds_may_be_without_class(records):
    record = records["coco"][0]
    truth = make(ignore_crowd_in_semantic=True)(record)["truth"]
    crowd = (truth.offset != 0).any(dim=0) & ~truth.labeled
    assert truth.has_offset[crowd].all()
    assert crowd.any()


def test_a_label_that_does_not_fit_is_named(records, tmp_path):
    record = records["coco"][0]
    file = tmp_path / "label.png"
    Image.fromarray(np.zeros((7, 9, 3), np.uint8)).save(file)
    with pytest.raises(DatasetError, match=f"sizes differ: {file} is 9 x 7, .* is 60 x 80"):
        make()(record | {"pan_seg_file_name": str(file)})
    with pytest.raises(DatasetError, match="not in segments_info"):
        make()(record | {"segments_info": record["segments_info"][:1]})


def test_photometric_and_resize_stand_where_detectron2_would_have_them(records):
    color = [T.RandomBrightness(0.5, 1.5), T.RandomContrast(0.5, 1.5), T.RandomSaturation(0.5, 1.5)]
    scale = T.ResizeScale(0.1, 2.0, 32, 40)
    ours = SemanticTrainMapper(
        augmentations=augmentations(), num_classes=19, resize=scale, photometric=color
    )
    listed = [scale, *augmentations()[1:], *color]
    theirs = DatasetMapper(True, augmentations=listed, image_format="RGB")
    for record in records["cityscapes_semantic"]:
        for seed in range(6):
            assert_equal(sample(ours, record, seed), sample(theirs, record, seed))


# (id, class, top, left, bottom, right), painted one over the other; classes 0..3 are things.
SCENES = [
    [(7, 5, 0, 0, 30, 40), (9, 4, 0, 0, 10, 40), (1, 0, 4, 3, 12, 14), (300, 1, 20, 25, 29, 39)],
    [(5, 4, 0, 0, 24, 50), (1, 0, 2, 1, 14, 20), (2, 2, 10, 10, 22, 24), (3, 3, 20, 40, 24, 50)],
]
CROWD = [(4, 1, 5, 30, 9, 36)]  # of the second, not to be pasted


class Painter:
    """Pixel by pixel: which segment is where, each by its scene and id."""

    def __init__(self, number, height, width):
        self.owners = [[None] * width for _ in range(height)]
        for segment, _, top, left, bottom, right in SCENES[number] + CROWD * number:
            for y in range(top, bottom):
                for x in range(left, right):
                    self.owners[y][x] = (number, segment)

    def paste(self, other, segments):
        for y, row in enumerate(other.owners[: len(self.owners)]):
            for x, owner in enumerate(row[: len(self.owners[0])]):
                if owner is not None and owner[1] in segments:
                    self.owners[y][x] = owner

    def paint(self, colors):
        return np.array([[colors[owner] for owner in row] for row in self.owners], np.uint8)


def color_of(owner):
    return (0, 0, 0) if owner is None else (60 + 90 * owner[0], owner[1] % 251, 200)


def paint_scenes(folder):
    records = []
    for number, size in enumerate([(32, 40), (24, 50)]):
        painter, segments = Painter(number, *size), []
        owners = {owner for row in painter.owners for owner in row}
        for segment, category, *_ in SCENES[number]:
            segments.append({"id": segment, "category_id": category, "iscrowd": 0})
        segments += [{"id": s, "category_id": c, "iscrowd": 1} for s, c, *_ in CROWD * number]
        image = painter.paint({owner: color_of(owner) for owner in owners})
        label = painter.paint({o: id2rgb(0 if o is None else o[1]) for o in owners})
        for name, pixels in ((f"{number}.png", image), (f"{number}_label.png", label)):
            Image.fromarray(pixels).save(folder / name)
        records.append(
            {
                "file_name": str(folder / f"{number}.png"),
                "pan_seg_file_name": str(folder / f"{number}_label.png"),
                "image_id": number,
                "segments_info": segments,
            }
        )
    return records


def pasting_mapper(records, **options):
    mapper = PanopticTrainMapper(
        augmentations=[T.NoOpTransform()],
        num_classes=6,
        thing_ids=range(4),
        gaussian_sigma=2,
        small_instance_area=100,
        small_instance_weight=3,
        copy_paste=CopyPaste(**options),
    )
    mapper.records = records
    return mapper


def test_pasted_things_are_as_a_painter_paints_them(tmp_path):
    """With targets as Detectron2 makes them of the painted label: what is hidden is not there."""
    records = paint_scenes(tmp_path)
    mapper = pasting_mapper(records[1:], probability=1.0)
    generator = PanopticDeepLabTargetGenerator(
        ignore_label=255,
        thing_ids=list(range(4)),
        sigma=2,
        ignore_stuff_in_offset=True,
        small_instance_area=100,
        small_instance_weight=3,
    )
    seen = set()
    for seed in range(40):
        made = sample(mapper, records[0], seed)
        pasted = made["segments_info"][4:]
        originals = {c: s for s, c, *_ in SCENES[1]}  # each class is there once
        chosen = {originals[each["category_id"]]: each["id"] for each in pasted}
        painter = Painter(0, 32, 40)
        painter.paste(Painter(1, 24, 50), chosen)
        owners = {owner for row in painter.owners for owner in row}
        image = painter.paint({owner: color_of(owner) for owner in owners})
        assert np.array_equal(made["image"].permute(1, 2, 0).numpy(), image)
        ids = {o: 0 if o is None else o[1] if o[0] == 0 else chosen[o[1]] for o in owners}
        assert len(set(ids.values())) == len(ids)
        colors = painter.paint({owner: id2rgb(number) for owner, number in ids.items()})
        wanted = generator(rgb2id(colors), made["segments_info"])
        assert_equal({key: made[key] for key in wanted}, wanted)
        seen.add(tuple(chosen))
    assert seen == {(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)}  # no stuff, no crowd


def test_a_sample_without_pasted_things_is_the_usual_one(tmp_path):
    records = paint_scenes(tmp_path)
    usual = pasting_mapper([])
    for changes in ({"probability": 0}, {"probability": 1, "share": 0}):
        other = pasting_mapper(records, **changes)
        assert_equal(sample(other, records[0], 1), sample(usual, records[0], 1))
    (tmp_path / "1.png").write_bytes(b"damaged")  # which is said when it is drawn itself
    other = pasting_mapper(records[1:], probability=1)
    assert_equal(sample(other, records[0], 1), sample(usual, records[0], 1))
    with pytest.raises(DatasetError, match=r"1\.png"):
        sample(other, records[1], 1)


def test_copy_paste_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"copy_paste\.share=2 must be a number, at least 0"):
        CopyPaste(share=2)
    with pytest.raises(ValueError, match="it needs task=panoptic"):
        SemanticTrainMapper(augmentations=[], num_classes=2, copy_paste=CopyPaste())


def test_pasted_things_depend_on_seed_and_position_alone(tmp_path):
    """Whichever process makes a sample, and whether the run was interrupted."""
    records = paint_scenes(tmp_path) * 3

    def loader(workers):
        mapper = pasting_mapper([], probability=0.7)
        options = {"batch_size": 2, "num_workers": workers, "seed": 3}
        return TrainLoader(records=records, mapper=mapper, aspect_ratio_grouping=False, **options)

    one, two = loader(0), loader(2)
    batches = iter(one)
    first = [next(batches) for _ in range(3)]
    state = one.state_dict()
    rest = [next(batches) for _ in range(3)]
    workers = iter(two)
    for expected in first + rest:
        for a, b in zip(next(workers), expected, strict=True):
            assert_equal(a, b)
    again = loader(0)
    again.load_state_dict(state)
    for expected, batch in zip(rest, again, strict=False):
        for a, b in zip(batch, expected, strict=True):
            assert_equal(a, b)
    assert len({len(a["segments_info"]) for batch in first + rest for a in batch}) > 2

"""Pictures of the first images of an evaluation."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.visualize.evaluator import PictureEvaluator, ground_truth_map


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

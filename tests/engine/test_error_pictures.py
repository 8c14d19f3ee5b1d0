"""Pictures of the best and worst images: which ones, and alike for two processes."""

import math
import traceback
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.modes.error_pictures import CELL_WIDTH, CompressedMap, ErrorPictures
from tests.evaluation.scenes import DIVISOR, panoptic_scene, write_panoptic

NUM_IMAGES = 9
QUALITIES = [0.5, 0.1, 0.5, 1.0, math.nan, 0.1, 0.9, 0.0, 1.0]
SHARDS = {  # images of each of two processes
    "uneven": [[8, 1], [7, 6, 5, 4, 3, 2, 0]],
    "all in the second": [[], range(9)],
}


def make_dataset(folder: Path, number: int = NUM_IMAGES) -> str:
    """Drawn scenes, one of them with a name that no file can have everywhere."""
    records = []
    for index in range(number):
        scene = panoptic_scene(index)
        name = f"{index} \u00e4:b" if index == 7 else str(index)
        image = folder / f"{name}.png"
        if not image.exists():
            write_panoptic(scene, folder, str(index))
            height, width = scene.truth.shape
            Image.new("RGB", (width, height), (90, 120, 40)).save(image)
        records.append(
            {
                "file_name": str(image),
                "image_id": index,
                "pan_seg_file_name": str(folder / "truth" / f"{index}.png"),
                "segments_info": scene.segments,
            }
        )
    dataset = f"error_pictures_{folder.name}"
    if dataset in DatasetCatalog:
        DatasetCatalog.remove(dataset)
        MetadataCatalog.remove(dataset)
    DatasetCatalog.register(dataset, lambda: records[::-1])
    MetadataCatalog.get(dataset).set(
        stuff_classes=list("abcdef"),
        thing_dataset_id_to_contiguous_id={1: 1, 3: 3, 5: 5},
        label_divisor=DIVISOR,
    )
    return dataset


def panoptic_output(index: int) -> dict:
    return {"panoptic_seg": (torch.from_numpy(panoptic_scene(index).panoptic), None)}


def offer_all(pictures: ErrorPictures, images, output=panoptic_output) -> None:
    items = {record["image_id"]: record for record in DatasetCatalog.get(pictures.dataset)}
    for index in images:
        pictures.offer({"file_name": items[index]["file_name"]}, output(index), QUALITIES[index])


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


EXPECTED = ["best-1-8.png", "best-2-3.png", "best.png"]
EXPECTED += ["worst-1-7___b.png", "worst-2-1.png", "worst.png"]


def test_best_and_worst_in_order_and_nothing_else_is_kept(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 2, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES))
    assert len(pictures._extremes.kept) == 4
    sheets = pictures.draw()
    assert [sheet.name for sheet in sheets] == ["worst.png", "best.png"]
    assert names(tmp_path / "errors") == EXPECTED
    with Image.open(sheets[0]) as sheet, Image.open(tmp_path / "errors/worst-2-1.png") as part:
        assert part.width == sheet.width == 4 * (CELL_WIDTH + 8) + 8
        # A scene of 14 x 18 pixels fits 480 pixels of height; then 2 lines of head, 1 of caption.
        assert part.height == 68 + 34 + 480 + 8
        assert sheet.height == 68 + 2 * (34 + 480 + 8)
        row = np.asarray(sheet)[68 + 522 :]
        assert (row == np.asarray(part)[68:]).all()
        assert len(np.unique(row.reshape(-1, 3), axis=0)) > 20


def test_old_pictures_go_and_those_of_others_stay(tmp_path):
    folder = tmp_path / "errors"
    folder.mkdir()
    for name in ("worst-9-old.png", "best.png", "worst.txt", "bestiary.png"):
        (folder / name).write_text("old")
    pictures = ErrorPictures(make_dataset(tmp_path), 2, folder)
    offer_all(pictures, range(NUM_IMAGES))
    pictures.reset()
    offer_all(pictures, [4, 6])  # one of them has no quality
    assert [sheet.name for sheet in pictures.draw()] == ["worst.png"]
    assert names(folder) == ["bestiary.png", "worst-1-6.png", "worst.png", "worst.txt"]
    pictures.reset()
    assert pictures.draw() == []
    assert names(folder) == ["bestiary.png", "worst.txt"]


def test_none_are_wanted(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 0, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES))
    assert pictures.draw() == []
    assert not (tmp_path / "errors").exists()


@pytest.mark.parametrize("scores", [False, True])
def test_semantic_predictions(tmp_path, scores):
    dataset = make_dataset(tmp_path)

    def output(index):
        classes = torch.from_numpy(panoptic_scene(index).panoptic) // DIVISOR
        one_hot = torch.nn.functional.one_hot(classes.clamp(min=0), 6).permute(2, 0, 1).float()
        return {"sem_seg": one_hot if scores else classes}

    pictures = ErrorPictures(dataset, 1, tmp_path / "errors")
    offer_all(pictures, range(NUM_IMAGES), output)
    stored = next(iter(pictures._extremes.kept.values())).expand()
    expected = panoptic_scene(7).panoptic // DIVISOR
    assert (stored == (expected.clip(0) if scores else expected)).all()
    assert len(pictures.draw()) == 2


def test_what_cannot_be_drawn_is_refused(tmp_path):
    pictures = ErrorPictures(make_dataset(tmp_path), 1, tmp_path / "errors")
    with pytest.raises(EvaluationError, match="stranger"):
        pictures.offer({"file_name": "stranger.png"}, panoptic_output(0), 0.5)
    file = DatasetCatalog.get(pictures.dataset)[0]["file_name"]
    listed = {"panoptic_seg": (torch.ones(2, 2, dtype=torch.int32), [{"id": 1}])}
    with pytest.raises(EvaluationError, match="no list of segments"):
        pictures.offer({"file_name": file}, listed, 0.5)


def test_kept_maps_are_small_and_whole():
    panoptic = np.full((1024, 2048), -1)
    panoptic[300:, 100:900] = 18 * DIVISOR + 42
    kept = CompressedMap.of(panoptic)
    assert len(kept.data) < 100_000
    assert (kept.expand() == panoptic).all()


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    try:
        torch.distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder}/rendezvous",
            rank=rank,
            world_size=2,
            timeout=timedelta(seconds=120),
        )
        dataset = make_dataset(Path(folder))
        for name, shards in SHARDS.items():
            pictures = ErrorPictures(dataset, 2, Path(folder) / name)
            offer_all(pictures, shards[rank])
            sheets = [sheet.name for sheet in pictures.draw()]
            assert sheets == ([] if rank else ["worst.png", "best.png"])
        torch.distributed.destroy_process_group()
    except BaseException:
        traceback.print_exc()
        raise


def test_two_processes_draw_what_one_does(tmp_path):
    alone = ErrorPictures(make_dataset(tmp_path), 2, tmp_path / "alone")
    offer_all(alone, range(NUM_IMAGES))
    alone.draw()
    torch.multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    for together in SHARDS:
        assert names(tmp_path / together) == names(tmp_path / "alone") == EXPECTED
        for name in EXPECTED:
            files = [tmp_path / place / name for place in (together, "alone")]
            assert files[0].read_bytes() == files[1].read_bytes()

"""Loaders: reproducible, fair to all processes, clear about what they cannot do; prefetching."""

import itertools
import multiprocessing
import os
import re
import signal
import time

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.data import transforms as T
from detectron2.utils import comm
from PIL import Image

from panoptic_dl.core.errors import DatasetError, message_for_user
from panoptic_dl.data.loader import (
    PrefetchedToGpu,
    TrainLoader,
    _prefetch,
    _prefetch_to_gpu,
    accumulation,
    train_loader,
)
from panoptic_dl.data.loader import test_loader as make_test_loader
from panoptic_dl.data.mapper import SemanticTrainMapper, TestMapper
from panoptic_dl.datasets.coco import coco_panoptic
from tests.datasets.tiny_datasets import write_coco


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = write_coco(tmp_path_factory.mktemp("data"), train=7)
    return coco_panoptic(root=str(root), split="train", prefix="loader_")


def mapper():
    return SemanticTrainMapper(
        augmentations=[T.RandomCrop("absolute", [20, 20]), T.RandomFlip()], num_classes=133
    )


def first(dataset, count=4, **changes):
    options = {"batch_size": 2, "num_workers": 0, "seed": 3} | changes
    loader = train_loader(dataset=dataset, mapper=mapper(), **options)
    return list(itertools.islice(loader, count))


def same(left, right):
    return all(
        a["image_id"] == b["image_id"] and torch.equal(a["image"], b["image"])
        for a, b in zip(itertools.chain(*left), itertools.chain(*right), strict=True)
    )


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_seed_decides_order_and_augmentation(dataset, num_workers):
    one = first(dataset, num_workers=num_workers)
    np.random.rand(5)  # noqa: NPY002  what others draw does not matter
    torch.rand(5)
    assert same(one, first(dataset, num_workers=num_workers))
    assert not same(one, first(dataset, num_workers=num_workers, seed=4))


def test_a_sample_takes_one_descriptor(dataset):
    def descriptors():
        return len(os.listdir("/dev/fd"))

    def mapped(record):
        maps = torch.full((40, 60), record["image_id"]), torch.rand(2, 40, 60), torch.ones(3).bool()
        return {
            "image_id": record["image_id"],
            "number": torch.tensor(2.5),
            **dict(zip("abc", maps, strict=True)),
        }

    loader = train_loader(dataset=dataset, mapper=mapped, batch_size=4, num_workers=1, seed=3)
    batches = iter(loader)
    kept, before = [next(batches)], descriptors()
    kept += itertools.islice(batches, 5)
    assert descriptors() - before <= 5 * 4 + 4  # those that are on their way
    for sample in itertools.chain(*kept):
        assert torch.equal(sample["a"], torch.full((40, 60), sample["image_id"]))
        assert sample["b"].shape == (2, 40, 60)
        assert 0 <= sample["b"].min() < sample["b"].max() <= 1
        assert sample["c"].tolist() == [True] * 3
        assert sample["number"] == 2.5


def test_the_global_random_numbers_are_left_alone(dataset):
    np.random.seed(0)  # noqa: NPY002
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    first(dataset)
    assert np.random.rand() == expected  # noqa: NPY002


def test_samples_differ_from_epoch_to_epoch(dataset):
    batches = first(dataset, count=21, batch_size=1)
    images = [b[0]["image"] for b in batches if b[0]["image_id"] == 101]
    assert len(images) == 3
    assert not all(torch.equal(images[0], image) for image in images)


def test_every_image_comes_once_in_an_epoch(dataset):
    ids = [b[0]["image_id"] for b in first(dataset, count=14, batch_size=1)]
    assert sorted(ids[:7]) == sorted(ids[7:]) == list(range(100, 107))


def test_batches_are_upright_or_lying(dataset):
    for batch in first(dataset, count=6):
        assert len({item["width"] > item["height"] for item in batch}) == 1
    mixed = first(dataset, count=12, aspect_ratio_grouping=False)
    assert any(len({i["width"] > i["height"] for i in batch}) == 2 for batch in mixed)


def test_processes_share_images_but_not_augmentation(dataset, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        shares.append(first(dataset, count=7, aspect_ratio_grouping=False))
    ids = [[b[0]["image_id"] for b in share] for share in shares]
    merged = list(itertools.chain(*zip(*ids, strict=True)))
    assert sorted(merged[:7]) == sorted(merged[7:]) == list(range(100, 107))
    # The same place in the stream has its own chance in each process.
    drawn = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = train_loader(
            dataset=dataset,
            mapper=lambda record: {"drawn": np.random.rand()},  # noqa: NPY002
            batch_size=2,
            num_workers=0,
            seed=3,
            aspect_ratio_grouping=False,
        )
        drawn.append(next(iter(loader))[0]["drawn"])
    assert drawn[0] != drawn[1]


def test_a_batch_that_cannot_be_shared_is_refused(dataset, monkeypatch):
    monkeypatch.setattr(comm, "get_world_size", lambda: 8)
    with pytest.raises(ValueError, match=r"batch of 33 images .* 8 processes.* fits is 40"):
        first(dataset, batch_size=33)
    monkeypatch.setattr(comm, "get_world_size", lambda: 1)
    with pytest.raises(ValueError, match=r"batch of 0 images .* 1 processes.* fits is 1"):
        first(dataset, batch_size=0)


def test_an_empty_or_unknown_dataset_is_refused(dataset):
    DatasetCatalog.register("loader_empty", list)
    with pytest.raises(DatasetError, match="'loader_empty' has no images"):
        first("loader_empty")
    with pytest.raises(DatasetError, match=f"no dataset .*{dataset[:-1]}.* near: {dataset}"):
        make_test_loader(dataset=dataset[:-1], mapper=TestMapper(augmentations=[]), num_workers=0)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_test_loader_serves_every_image_once_in_order(dataset, num_workers):
    loader = make_test_loader(
        dataset=dataset, mapper=TestMapper(augmentations=[]), num_workers=num_workers
    )
    batches = list(loader)
    assert [[item["image_id"] for item in batch] for batch in batches] == [
        [image_id] for image_id in range(100, 107)
    ]
    assert batches[0][0]["image"].shape == (3, 80, 60)


def test_an_error_in_a_worker_names_the_file_in_one_line(dataset, tmp_path):
    def broken(record):
        return TestMapper(augmentations=[])(record | {"file_name": str(tmp_path / "gone.jpg")})

    with pytest.raises(
        DatasetError, match=rf"^cannot read {tmp_path}/gone\.jpg \(missing\)[^\n]*$"
    ):
        next(iter(make_test_loader(dataset=dataset, mapper=broken, num_workers=1)))


@pytest.mark.thorough
def test_the_order_is_one_for_all_ways_of_sharing(dataset, monkeypatch):
    """Groups of two: two processes with two passes each, one with four, four with one."""

    def steps(processes, accumulate):
        monkeypatch.setattr(comm, "get_world_size", lambda: processes)
        streams = []
        for rank in range(processes):
            monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
            streams.append(
                first(dataset, count=3 * accumulate, batch_size=8, accumulate=accumulate)
            )
        return [
            [streams[rank][step * accumulate + part] for part in range(accumulate)
             for rank in range(processes)]
            for step in range(3)
        ]  # fmt: skip

    one, two, four = (list(itertools.chain(*steps(*shared))) for shared in ((1, 4), (2, 2), (4, 1)))
    assert len(one) == 12
    assert same(one, two)
    assert same(one, four)


def test_a_sample_depends_on_seed_and_position_alone(dataset):
    one = first(dataset, count=6, num_workers=0)
    assert same(one, first(dataset, count=6, num_workers=1))
    assert same(one, first(dataset, count=6, num_workers=3))


def test_a_stream_is_taken_up_with_another_number_of_processes(dataset, monkeypatch):
    loader = train_loader(dataset=dataset, mapper=mapper(), batch_size=4, num_workers=2, seed=3)
    done = list(itertools.islice(loader, 3))
    state = loader.state_dict()
    assert same(done, first(dataset, count=3, batch_size=4))
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    rest = []
    for rank in range(2):
        monkeypatch.setattr(comm, "get_rank", lambda rank=rank: rank)
        loader = train_loader(dataset=dataset, mapper=mapper(), batch_size=4, num_workers=0, seed=3)
        loader.load_state_dict(state)
        rest += itertools.islice(loader, 4)
    ids = [item["image_id"] for batch in done + rest for item in batch]
    assert len(ids) == 28  # four epochs of seven, but for what waits for images of its shape
    assert max(ids.count(i) for i in set(ids)) - min(ids.count(i) for i in set(ids)) <= 1


def broken_for(*broken):
    """A mapper that cannot read some images; the others give their id and a random number."""

    def read(record):
        if record["image_id"] in broken:
            raise DatasetError(f"cannot read {record['file_name']} (missing)")
        return {"image_id": record["image_id"], "drawn": np.random.rand()}  # noqa: NPY002

    return read


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bounded_number_of_bad_images_is_stood_in_for(dataset, num_workers):
    def take(bad, limit):
        loader = train_loader(
            dataset=dataset,
            mapper=broken_for(*bad),
            batch_size=1,
            num_workers=num_workers,
            seed=3,
            max_bad_samples=limit,
        )
        samples = [batch[0] for batch in itertools.islice(loader, 7)]
        return samples, loader.take_bad_samples(), loader.take_bad_samples()

    whole, none, _ = take((), 0)
    assert none == {}
    some, bad, again = take((101, 103), 2)
    assert again == {}
    assert sorted(file.rpartition("/")[2] for file in bad) == [
        *("000000000101.jpg", "000000000103.jpg")
    ]
    assert all("cannot read" in error for error in bad.values())
    for left, right in zip(whole, some, strict=True):
        assert left["image_id"] == right["image_id"] or left["image_id"] in (101, 103)
        assert right["image_id"] not in (101, 103)
        assert left["drawn"] == right["drawn"]  # of its place in the stream
    assert some == take((101, 103), 2)[0]
    if num_workers:  # torch needs 20 seconds to end workers whose error has ended the loop
        return
    with pytest.raises(DatasetError, match=r"cannot read .*0000000010[13]\.jpg"):
        take((101, 103), 0)
    with pytest.raises(DatasetError, match="cannot read"):
        take(range(100, 107), 50)


def test_sizes_that_are_wrong_and_images_too_large_count_as_bad(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    records = []
    for number, (size, listed) in enumerate(
        [((20, 30), (20, 30)), ((20, 30), (30, 20)), ((40, 30), (40, 30))]
    ):
        for name in ("image", "label"):
            Image.new("RGB", size[::-1]).save(tmp_path / f"{name}{number}.png")
        records.append(
            {
                "file_name": str(tmp_path / f"image{number}.png"),
                "image_id": number,
                "height": listed[0],
                "width": listed[1],
                "pan_seg_file_name": str(tmp_path / f"label{number}.png"),
                "segments_info": [],
            }
        )
    loader = TrainLoader(
        records=records,
        mapper=SemanticTrainMapper(augmentations=[], num_classes=2),
        batch_size=1,
        num_workers=0,
        seed=0,
        max_bad_samples=2,
    )
    samples = [batch[0] for batch in itertools.islice(loader, 6)]
    assert {sample["image_id"] for sample in samples} == {0}
    errors = loader.take_bad_samples()
    assert "its entry in the JSON file is 20 x 30" in errors[str(tmp_path / "image1.png")]
    assert "more than 1,000 pixels" in errors[str(tmp_path / "image2.png")]


def test_faults_of_headers_are_known_before_training(tmp_path, caplog):
    name = coco_panoptic(root=str(write_coco(tmp_path, train=4)), split="train", prefix="headers_")
    options = {"dataset": name, "mapper": mapper(), "batch_size": 2, "num_workers": 0, "seed": 3}
    train_loader(**options)
    label = tmp_path / "coco" / "panoptic_train2017" / "000000000102.png"
    with Image.open(label) as image:
        image.resize((9, 9)).save(label)
    with pytest.raises(DatasetError, match=rf"sizes differ: .*{label.name} is 9 x 9"):
        train_loader(**options)
    train_loader(**options, max_bad_samples=1)
    assert label.name in caplog.text


def test_images_without_a_listed_size_are_measured(dataset):
    records = [
        {k: v for k, v in record.items() if k not in ("width", "height")}
        for record in DatasetCatalog.get(dataset)
    ]
    loader = TrainLoader(records=records, mapper=mapper(), batch_size=2, num_workers=0, seed=3)
    assert same(list(itertools.islice(loader, 6)), first(dataset, count=6))


def test_an_image_of_unknown_shape_is_met_in_the_first_epoch(tmp_path):
    """Alone in a group of its own it would wait until it has been drawn several times."""
    records = [
        {"image_id": i, "file_name": f"{i}.png", "width": 2, "height": 1} for i in range(7)
    ] + [{"image_id": 7, "file_name": str(tmp_path / "none.png")}]
    loader = TrainLoader(records=records, mapper=broken_for(7), batch_size=4, num_workers=0, seed=0)
    with pytest.raises(DatasetError, match=r"none\.png"):
        list(itertools.islice(loader, 2))


def test_a_loader_process_that_dies_is_an_error_that_says_so(dataset):
    def die(record):
        os.kill(os.getpid(), signal.SIGKILL)

    loader = train_loader(dataset=dataset, mapper=die, batch_size=1, num_workers=1, seed=0)
    with pytest.raises(RuntimeError, match="DataLoader worker") as caught:
        next(iter(loader))
    assert re.match(r"a loader process died.*resume=true", message_for_user(caught.value))


def test_loader_processes_end_at_once_when_training_ends_by_an_error(dataset):
    """The error's traceback holds the loader until the program has ended."""
    begun = multiprocessing.Event()

    def mapper(record):
        if record["image_id"] != first:
            begun.set()
            time.sleep(60)
        begun.wait(30)  # a process that has not begun yet would not know of its end
        raise DatasetError("bad image")

    loader = train_loader(dataset=dataset, mapper=mapper, batch_size=1, num_workers=2, seed=0)
    first = DatasetCatalog.get(dataset)[next(iter(loader._coming_steps()))[0][0][0]]["image_id"]
    with pytest.raises(DatasetError, match="bad image"):
        next(iter(loader))
    for worker in multiprocessing.active_children():
        worker.join(5)
        assert worker.exitcode == 0


@pytest.mark.parametrize(
    ("batch_size", "num_processes", "images_per_gpu", "accumulate", "wanted"),
    [
        (32, 8, 4, None, 1),
        (32, 4, 4, None, 2),
        (32, 2, 4, None, 4),
        (32, 1, 4, None, 8),
        (64, 8, 4, None, 2),
        (64, 8, 8, None, 1),
        (16, 8, 4, None, 1),  # fewer than fit
        (32, 1, None, None, 1),
        (32, 2, None, 4, 4),
        (1, 1, 1, None, 1),
    ],
)
def test_the_global_batch_is_kept(batch_size, num_processes, images_per_gpu, accumulate, wanted):
    found = accumulation(batch_size, num_processes, images_per_gpu, accumulate)
    assert found == wanted
    each = batch_size / num_processes / found
    assert each == int(each)
    assert images_per_gpu is None or each <= images_per_gpu


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((32, 1, 4, 8), "say the same"),
        ((32, 1, 3, None), r"images_per_gpu=3 does not .*: choose one of 1, 2, 4, 8, 16, 32"),
        ((32, 2, None, 3), r"accumulate=3 does not .*: choose one of 1, 2, 4, 8, 16"),
        ((3, 2, None, None), "a batch of 3 images cannot be shared evenly.*fits is 4"),
        ((2, 1, None, 4), r"choose one of 1, 2"),
    ],
)
def test_what_cannot_be_is_said_with_what_can(numbers, message):
    with pytest.raises(ValueError, match=message):
        accumulation(*numbers)


def test_the_next_batch_is_started_before_this_one_is_given_out():
    log = []

    def start(batch):
        log.append(("start", batch))
        return batch

    def finish(batch):
        log.append(("finish", batch))
        return batch

    batches = _prefetch(iter([1, 2, 3]), start, finish)
    assert log == []  # nothing happens before the first is asked for
    assert next(batches) == 1
    assert log == [("start", 1), ("start", 2), ("finish", 1)]
    assert list(batches) == [2, 3]
    assert log[3:] == [("start", 3), ("finish", 2), ("finish", 3)]


def test_an_error_is_raised_when_its_batch_is_due():
    def failing():
        yield 1
        yield 2
        raise ValueError("the third")

    batches = _prefetch(failing(), lambda batch: batch, lambda batch: batch)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(batches)


def test_an_interrupt_does_not_wait():
    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(_prefetch(interrupted(), lambda batch: batch, lambda batch: batch))


def numbered(record):
    return {"image": torch.full((3, 4, 4), record["id"]), "id": record["id"], "width": 4}


def loader(**options):
    records = [{"id": number, "height": 4, "width": 4} for number in range(8)]
    numbers = {"batch_size": 2, "num_workers": 0, "seed": 0} | options
    return TrainLoader(records=records, mapper=numbered, **numbers)


def test_where_the_stream_is_counts_batches_that_were_taken(monkeypatch):
    """Batches that were only moved ahead come again after resuming."""
    expected = [[s["id"] for s in batch] for batch in itertools.islice(loader(), 6)]
    monkeypatch.setattr(
        "panoptic_dl.data.loader._prefetch_to_gpu",
        lambda batches, device: _prefetch(batches, lambda b: b, lambda b: b),
    )
    monkeypatch.setattr(
        torch.utils.data, "DataLoader", without_pinning(torch.utils.data.DataLoader)
    )
    first = loader()
    first.device = torch.device("cuda")
    taken = [[s["id"] for s in batch] for batch in itertools.islice(first, 3)]
    second = loader()
    second.device = torch.device("cuda")
    second.load_state_dict(first.state_dict())
    taken += [[s["id"] for s in batch] for batch in itertools.islice(second, 3)]
    assert taken == expected


def test_batches_of_an_evaluation_are_moved_ahead_too(monkeypatch):
    name = "images_that_are_moved_ahead"
    DatasetCatalog.register(name, lambda: [{"id": number} for number in range(5)])
    moved = []

    def prefetch(batches, device):
        assert batches._pin_memory or not torch.accelerator.is_available()
        moved.append(device)
        return batches

    monkeypatch.setattr("panoptic_dl.data.loader._prefetch_to_gpu", prefetch)
    try:
        batches = make_test_loader(dataset=name, mapper=dict, num_workers=0)
        expected = [[{"id": number}] for number in range(5)]
        assert list(batches) == expected
        assert moved == []
        ahead = PrefetchedToGpu(batches, torch.device("cuda"))
        assert len(ahead) == 5
        assert list(ahead) == expected
        assert moved == [torch.device("cuda")]
    finally:
        DatasetCatalog.remove(name)


def without_pinning(kind):
    def make(*arguments, pin_memory, **options):
        assert pin_memory
        return kind(*arguments, **options)

    return make


@pytest.mark.gpu
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_are_on_the_gpu_and_the_same(num_workers):
    there = loader(num_workers=num_workers)
    there.device = torch.device("cuda")
    for ours, theirs in zip(
        itertools.islice(there, 8),
        itertools.islice(loader(num_workers=num_workers), 8),
        strict=True,
    ):
        for a, b in zip(ours, theirs, strict=True):
            assert a["image"].is_cuda
            assert torch.equal(a["image"].cpu(), b["image"])
            assert a["id"] == b["id"]


@pytest.mark.gpu
def test_memory_is_not_reused_while_it_is_read():
    """Large tensors, used long after the next ones were copied."""
    device = torch.device("cuda")
    batches = ([{"image": torch.full((64, 1024, 1024), i).pin_memory()}] for i in range(12))
    for number, batch in enumerate(_prefetch_to_gpu(batches, device)):
        torch.cuda._sleep(20_000_000)
        total = batch[0]["image"].double().sum()
        del batch
        assert total.item() == number * 64 * 1024 * 1024

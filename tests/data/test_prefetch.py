"""Batches are moved one ahead, in order, and errors wait for their turn."""

import itertools

import pytest
import torch

from panoptic_dl.data.loader import TrainLoader, prefetch, prefetch_to_gpu


def test_the_next_batch_is_started_before_this_one_is_given_out():
    log = []

    def start(batch):
        log.append(("start", batch))
        return batch

    def finish(batch):
        log.append(("finish", batch))
        return batch

    batches = prefetch(iter([1, 2, 3]), start, finish)
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

    batches = prefetch(failing(), lambda batch: batch, lambda batch: batch)
    assert [next(batches), next(batches)] == [1, 2]
    with pytest.raises(ValueError, match="the third"):
        next(batches)


def test_an_interrupt_does_not_wait():
    def interrupted():
        yield 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(prefetch(interrupted(), lambda batch: batch, lambda batch: batch))


def mapper(record):
    return {"image": torch.full((3, 4, 4), record["id"]), "id": record["id"], "width": 4}


def loader(**options):
    records = [{"id": number, "height": 4, "width": 4} for number in range(8)]
    numbers = {"batch_size": 2, "num_workers": 0, "seed": 0} | options
    return TrainLoader(records=records, mapper=mapper, **numbers)


def test_where_the_stream_is_counts_batches_that_were_taken(monkeypatch):
    """Batches that were only moved ahead come again after resuming."""
    expected = [[s["id"] for s in batch] for batch in itertools.islice(loader(), 6)]
    monkeypatch.setattr(
        "panoptic_dl.data.loader.prefetch_to_gpu",
        lambda batches, device: prefetch(batches, lambda b: b, lambda b: b),
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
    for number, batch in enumerate(prefetch_to_gpu(batches, device)):
        torch.cuda._sleep(20_000_000)
        total = batch[0]["image"].double().sum()
        del batch
        assert total.item() == number * 64 * 1024 * 1024

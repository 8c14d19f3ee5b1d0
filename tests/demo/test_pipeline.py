"""Stages overlap, keep the order and the number of images in memory, and pass errors on."""

import threading
import time
from contextlib import closing
from itertools import count

import pytest

from panoptic_dl.core.errors import DemoError
from panoptic_dl.demo.demo import Pipeline


def stages(read=lambda i: i, finish=lambda i, read, said: said, **options):
    options = {"network": list, "num_readers": 3, "num_workers": 3, **options}
    return Pipeline(read=read, finish=finish, **options)


def values(run):
    return [value for _, value in run]


def test_results_come_in_the_order_of_the_items():
    def slow(i, *_):
        time.sleep(0.01 * (i % 3))
        return i

    assert values(stages(read=slow, finish=slow).run(range(30))) == list(range(30))


@pytest.mark.parametrize("batch_size", [1, 3, 7, 50])
def test_the_network_gets_batches(batch_size):
    seen = []

    def network(batch):
        seen.append(len(batch))
        return [10 * i for i in batch]

    run = stages(network=network, batch_size=batch_size).run(range(10))
    assert values(run) == [10 * i for i in range(10)]
    assert max(seen) == min(batch_size, 10)
    assert sum(seen) == 10


def test_what_cannot_be_read_is_an_outcome_in_its_place():
    def read(i):
        if i in (0, 4, 5, 9):
            raise DemoError(f"{i} is broken")
        return i

    for batch_size in (1, 4):
        outcomes = list(stages(read=read, batch_size=batch_size).run(range(10)))
        assert [item for item, _ in outcomes] == list(range(10))
        assert [i for i, value in outcomes if isinstance(value, DemoError)] == [0, 4, 5, 9]
        assert str(outcomes[4][1]) == "4 is broken"


def test_a_stream_ends_where_it_says_so():
    for batch_size in (1, 3, 20):
        pipeline = stages(read=lambda i: i if i < 7 else None, num_readers=1, batch_size=batch_size)
        run = pipeline.run(count())
        assert values(run) == list(range(7))


def test_results_are_written_in_order_by_one_thread():
    written, threads = [], set()

    def write(value):
        threads.add(threading.get_ident())
        written.append(value)

    def finish(i, *_):
        time.sleep(0.01 * (3 - i % 4))
        return i

    list(stages(finish=finish, write=write).run(range(12)))
    assert written == list(range(12))
    assert len(threads) == 1


def test_no_more_images_are_under_way_than_threads_need():
    alive, most, lock = 0, 0, threading.Lock()

    def read(i):
        nonlocal alive, most
        with lock:
            alive += 1
            most = max(most, alive)
        return i

    def finish(i, *_):
        nonlocal alive
        time.sleep(0.002)
        with lock:
            alive -= 1

    list(stages(read=read, finish=finish, num_readers=2, num_workers=2).run(range(100)))
    assert most <= (2 + 1) + (2 + 1) + 2


@pytest.mark.parametrize("where", ["read", "network", "finish", "write"])
def test_errors_that_nobody_expects_end_it_all_and_no_thread_is_left(where):
    def fail(*_):
        raise ZeroDivisionError(where)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError, match=where):
        list(stages(**{where: fail}).run(range(20)))
    assert threading.active_count() == before


def test_an_interruption_finishes_what_is_begun_and_begins_nothing():
    begun, ended = [], []

    def finish(i, *_):
        begun.append(i)
        time.sleep(0.02)
        ended.append(i)
        return i

    def interrupted():
        with closing(stages(finish=finish).run(range(100))) as run:
            for item, _ in run:
                if item == 5:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert sorted(begun) == sorted(ended)
    assert len(begun) < 30


def test_times_say_what_the_others_waited_for():
    def slow(*values):
        time.sleep(0.02)
        return values[0]

    reading = stages(read=slow, num_readers=1)
    list(reading.run(range(10)))
    assert "bottleneck: reading" in reading.times.lines(1)[1]
    drawing = stages(finish=slow, num_workers=1)
    list(drawing.run(range(10)))
    assert "bottleneck: drawing and writing" in drawing.times.lines(1)[1]
    network = stages(network=slow)
    list(network.run(range(10)))
    assert "bottleneck: network" in network.times.lines(1)[1]
    assert network.times.images == 10

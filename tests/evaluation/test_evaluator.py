"""Matching in threads: nothing is lost, the order is kept, memory is bounded."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from panopticapi.utils import id2rgb
from PIL import Image

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import SemanticLabelReader, read_label_ids
from panoptic_dl.evaluation.evaluator import Coverage, StreamingEvaluator, ThreadedEvaluator
from panoptic_dl.evaluation.panoptic import StreamingPanopticEvaluator
from tests.evaluation.panoptic_scenes import outputs_of, register
from tests.evaluation.scenes import panoptic_scene

PATIENCE = 20  # seconds that a thread waits for another before the test fails


class Recorder(StreamingEvaluator[int, int]):
    """Remembers what was added, and by which threads it was compared."""

    _coverage = Coverage([0], "numbers")

    needs = "number"

    def __init__(self, task: str = "numbers") -> None:
        self.task = task
        self.reset()

    def reset(self) -> None:
        self.taken: list[int] = []
        self.added: list[int] = []
        self.threads: set[int] = set()

    def extract(self, item: dict[str, Any], output: dict[str, Any]) -> int:
        self.taken.append(output["number"])
        return output["number"]

    def match(self, taken: int) -> int:
        self.threads.add(threading.get_ident())
        if taken < 0:
            raise EvaluationError(f"image {taken}: negative")
        return taken

    def update(self, compared: int) -> None:
        self.added.append(compared)

    def evaluate(self) -> dict[str, dict[str, Any]]:
        return {self.task: {"sum": sum(self.added)}}


def feed(threaded: ThreadedEvaluator, numbers) -> None:
    for number in numbers:
        threaded.process([{"image_id": number}], [{"number": number}])


@pytest.mark.parametrize("num_threads", [0, 1, 3])
def test_every_image_is_added_once_in_order(num_threads):
    first, second = Recorder("first"), Recorder("second")
    threaded = ThreadedEvaluator([first, second], num_threads=num_threads)
    threaded.reset()
    feed(threaded, range(50))
    assert threaded.evaluate() == {"first": {"sum": 1225}, "second": {"sum": 1225}}
    assert first.added == second.added == list(range(50))
    here = threading.get_ident()
    assert here not in first.threads


def test_the_network_waits_when_too_many_images_do():
    """With two threads held up, no more than three images may be in memory."""

    class Held(Recorder):
        gate = threading.Event()

        def match(self, taken: int) -> int:
            assert self.gate.wait(PATIENCE)
            return super().match(taken)

    held = Held()
    threaded = ThreadedEvaluator([held], num_threads=2)
    feeder = threading.Thread(target=feed, args=(threaded, range(10)))
    feeder.start()
    feeder.join(0.5)
    assert feeder.is_alive()
    assert held.taken == [0, 1, 2]
    assert held.added == []
    held.gate.set()
    feeder.join(PATIENCE)
    assert threaded.evaluate() == {"numbers": {"sum": 45}}


def test_images_are_compared_side_by_side():
    """Two images that wait for each other can only be done by two threads."""

    class Paired(Recorder):
        together = threading.Barrier(2)

        def match(self, taken: int) -> int:
            self.together.wait(PATIENCE)
            return super().match(taken)

    threaded = ThreadedEvaluator([Paired()], num_threads=2)
    feed(threaded, range(4))
    assert threaded.evaluate() == {"numbers": {"sum": 6}}


@pytest.mark.parametrize("num_threads", [0, 2])
def test_an_error_of_an_image_is_raised_and_forgotten_by_reset(num_threads):
    recorder = Recorder()
    threaded = ThreadedEvaluator([recorder], num_threads=num_threads)
    with pytest.raises(EvaluationError, match="image -7: negative"):
        feed(threaded, [1, -7, *range(20)])
    threaded.reset()
    feed(threaded, [2, 3])
    assert threaded.evaluate() == {"numbers": {"sum": 5}}


def test_an_error_of_the_last_image_is_raised_too():
    recorder = Recorder()
    threaded = ThreadedEvaluator([recorder], num_threads=2)
    gate = threading.Event()
    compare = recorder.match
    recorder.match = lambda taken: gate.wait(PATIENCE) and compare(taken)
    feed(threaded, [1, -7])
    gate.set()
    with pytest.raises(EvaluationError, match="negative"):
        threaded.evaluate()


def test_no_thread_is_left_behind():
    before = set(threading.enumerate())
    threaded = ThreadedEvaluator([Recorder()], num_threads=3)
    feed(threaded, range(9))
    threaded.evaluate()
    assert set(threading.enumerate()) <= before


def test_outputs_may_change_after_they_were_handed_over(tmp_path):
    """Detectron2's evaluators add 1 to the map that they are given; models use memory again."""
    scenes = [panoptic_scene(seed) for seed in range(8)]
    name = register(scenes, tmp_path)
    said = []
    for spoil in (False, True):
        evaluator = StreamingPanopticEvaluator(name)
        gate, compare = threading.Event(), evaluator.match
        evaluator.match = lambda taken, g=gate, c=compare: g.wait(PATIENCE) and c(taken)
        threaded = ThreadedEvaluator([evaluator], num_threads=len(scenes))
        for item, output in zip(evaluator._records.values(), outputs_of(scenes), strict=True):
            output["panoptic_seg"] = (output["panoptic_seg"][0].clone(), None)
            threaded.process([item], [output])
            if spoil:
                output["panoptic_seg"][0].fill_(3000)
        gate.set()
        said.append(json.dumps(threaded.evaluate()))
    assert said[0] == said[1]


@pytest.mark.parametrize("num_threads", [0, 2])
def test_after_a_failure_all_begins_anew(tmp_path, num_threads):
    scenes = [panoptic_scene(seed) for seed in range(3)]
    evaluator = StreamingPanopticEvaluator(register(scenes, tmp_path))
    items, outputs = list(evaluator._records.values()), outputs_of(scenes)
    bad = [*outputs[:2], {"panoptic_seg": (torch.zeros(2, 2, dtype=torch.int64), None)}]
    threaded = ThreadedEvaluator([evaluator], num_threads=num_threads)

    def feed_all(outputs):
        threaded.process(items, outputs)
        return threaded.evaluate()

    with pytest.raises(EvaluationError, match="image 2: the prediction is"):
        feed_all(bad)
    with pytest.raises(EvaluationError, match="twice"):
        threaded.process(items[:1], outputs[:1])
    threaded.reset()
    assert feed_all(outputs)["panoptic_seg"]["num_images"] == 3


def test_labels_are_read_by_threads_at_once(tmp_path):
    """Of Cityscapes and COCO: each thread has its own memory of the last label, and tables."""
    draw = np.random.default_rng(0)
    files, records = [], []
    for number in range(8):
        files.append(tmp_path / f"{number}_ids.png")
        Image.fromarray(draw.integers(0, 30, (300, 400), dtype=np.uint8)).save(files[-1])
        panoptic = draw.integers(1, 200, (300, 400))
        record = {
            "pan_seg_file_name": str(tmp_path / f"{number}_panoptic.png"),
            "segments_info": [
                {"id": index, "category_id": int(draw.integers(0, 100))} for index in range(1, 200)
            ],
        }
        Image.fromarray(id2rgb(panoptic)).save(record["pan_seg_file_name"])
        records.append(record)
    reader = SemanticLabelReader(num_classes=100)

    def read(number: int) -> list[np.ndarray]:
        return [read_label_ids(files[number]), reader(records[number])]

    order = [int(number) for number in draw.integers(0, 8, 300)]
    expected = [read(number) for number in range(8)]
    with ThreadPoolExecutor(4) as pool:
        for number, found in zip(order, pool.map(read, order), strict=True):
            for one, other in zip(found, expected[number], strict=True):
                assert np.array_equal(one, other)


def test_two_evaluators_of_one_task_are_refused():
    threaded = ThreadedEvaluator([Recorder(), Recorder()], num_threads=0)
    with pytest.raises(EvaluationError, match="two evaluators report numbers"):
        threaded.evaluate()


def test_figures_and_images_do_not_depend_on_threads(tmp_path):
    scenes = [panoptic_scene(seed) for seed in range(20)]
    name = register(scenes, tmp_path)
    said = []
    for num_threads in (0, 1, 4):
        images = []

        def on_image(item, output, quality, images=images):
            panoptic, segments = output["panoptic_seg"]
            images.append((item["image_id"], quality, panoptic.sum().item(), segments))

        evaluator = StreamingPanopticEvaluator(name)
        threaded = ThreadedEvaluator([evaluator], num_threads=num_threads, on_image=on_image)
        for item, output in zip(evaluator._records.values(), outputs_of(scenes), strict=True):
            threaded.process([item], [output])
        results = threaded.evaluate()
        assert len(images) == len(scenes)
        assert any(0 < quality < 1 for _, quality, *_ in images)
        said.append(json.dumps([results, images]))
    assert said[0] == said[1] == said[2]
    assert np.isfinite(json.loads(said[0])[0]["panoptic_seg"]["PQ"])


def test_coverage_of_a_trial_counts_and_forgets():
    coverage = Coverage(range(5), "a list")
    coverage.limit(2)
    coverage.add(1)
    with pytest.raises(EvaluationError, match="1 predictions for 2 images"):
        coverage.require_all(coverage.seen)
    coverage.add(4)
    assert coverage.require_all(coverage.seen) == 2
    with pytest.raises(EvaluationError, match="more than one process"):
        coverage.require_all(2 * coverage.seen)
    coverage.reset()
    coverage.add(1)
    with pytest.raises(EvaluationError, match="the whole split"):
        coverage.require_all(coverage.seen)

"""The graph of post-processing: equal to Detectron2's, run by ONNX Runtime."""

import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.export import Dim

from panoptic_dl.postprocess import instances_from_panoptic
from panoptic_dl.postprocess.graph import Segmentation, segment
from tests.postprocess.detectron2_reference import ARGUMENTS, random_maps, reference

pytestmark = pytest.mark.thorough

CLASSES = 8
MAPS = ("sem_seg", "center", "offset")


# Sets of arguments, each of which makes a graph of its own.
SETS = {
    "usual": ARGUMENTS,
    "few": ARGUMENTS | {"top_k": 3, "nms_kernel": 3, "stuff_area": 3, "threshold": 0.5},
    "all": ARGUMENTS | {"nms_kernel": 1, "stuff_area": 0, "threshold": -1.0, "thing_ids": (0, 7)},
}


class Graph(nn.Module):
    def __init__(self, arguments):
        super().__init__()
        self.arguments = {name: each for name, each in arguments.items() if name != "void_label"}

    def forward(self, sem_seg, center, offset):
        return tuple(segment(sem_seg, center, offset, **self.arguments))


@pytest.fixture(scope="module", params=list(SETS))
def graph(request, tmp_path_factory):
    """A graph of any number of maps of any size, run by ONNX Runtime, and its arguments."""
    file = tmp_path_factory.mktemp("graph") / "graph.onnx"
    dims = {0: Dim("batch", min=1, max=9), 2: Dim("height", max=999), 3: Dim("width", max=999)}
    maps = tuple(torch.rand(2, channels, 48, 50) for channels in (CLASSES, 1, 2))
    arguments = SETS[request.param]
    program = torch.export.export(Graph(arguments), maps, dynamic_shapes=(dims, dims, dims))
    torch.onnx.export(program, dynamo=True, opset_version=18, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(maps):
        inputs = {each: m.numpy() for each, m in zip(MAPS, maps, strict=True)}
        return Segmentation(*map(torch.from_numpy, session.run(None, inputs)))

    return run, arguments


def of_image(labels, heatmap, offsets, seed=0):
    """Maps as a network gives them, (1, ...): logits whose argmax are the labels (1, H, W)."""
    noise = torch.rand(
        (1, CLASSES, *labels.shape[1:]), generator=torch.Generator().manual_seed(seed)
    )
    logits = noise + 2 * F.one_hot(labels, CLASSES).permute(0, 3, 1, 2)
    return logits, heatmap[None], offsets[None]


def assert_equal_to_detectron2(graph, labels, heatmap, offsets):
    run, arguments = graph
    maps = of_image(labels, heatmap, offsets)
    found = run(maps)
    panoptic, _ = reference(labels, heatmap, offsets, **arguments)
    assert torch.equal(found.panoptic, panoptic)
    assert torch.equal(found.semantic, labels)
    assert_scored(found, maps, arguments)


def assert_scored(found, maps, arguments):
    instances = instances_from_panoptic(
        found.panoptic[0],
        maps[0][0],
        maps[1][0],
        thing_ids=arguments["thing_ids"],
        label_divisor=arguments["label_divisor"],
    )
    ids = found.panoptic.unique()
    things = torch.isin(ids // arguments["label_divisor"], torch.tensor(arguments["thing_ids"]))
    expected = ids[things & (ids >= 0)]
    number = len(expected)
    assert torch.equal(found.thing_ids[0, :number], expected)
    assert (found.thing_ids[0, number:] == -1).all()
    assert (found.scores[0, number:] == 0).all()
    torch.testing.assert_close(found.scores[0, :number], instances.scores, rtol=0, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(5, 60),
    width=st.integers(5, 60),
    seed=st.integers(0, 2**20),
    num_centers=st.integers(1, 60),
    noise=st.sampled_from([0.0, 0.3, 3.0, 30.0]),
)
def test_random_scenes(graph, height, width, seed, num_centers, noise):
    maps = random_maps(height, width, seed, num_centers=num_centers, noise=noise)
    assert_equal_to_detectron2(graph, *maps)


@settings(max_examples=100, deadline=None)
@given(
    height=st.integers(5, 20),
    width=st.integers(5, 20),
    seed=st.integers(0, 2**20),
    levels=st.sampled_from([1, 2, 3, 5]),
    step=st.sampled_from([0.5, 1.0, 4.0]),
    reach=st.sampled_from([0, 1, 3, 20]),
)
def test_ties(graph, height, width, seed, levels, step, reach):
    """Plateaus in the heatmap, equidistant centers, equal votes, scores that tie at `top_k`."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    labels = draw(0, CLASSES, 1, height, width)
    heatmap = draw(0, levels + 1, 1, height, width) / levels
    offsets = draw(-reach, reach + 1, 2, height, width) * step
    assert_equal_to_detectron2(graph, labels, heatmap, offsets)


@pytest.mark.parametrize("scale", [1e3, 1e20, float("inf"), float("nan")])
def test_offsets_that_lead_nowhere(graph, scale):
    """Far away, distances are equal in single precision, and the first center counts."""
    labels, heatmap, offsets = random_maps(40, 50, seed=3, num_centers=9)
    assert_equal_to_detectron2(graph, labels, heatmap, offsets * scale)


def test_large_scenes(graph):
    for seed in range(5):
        maps = random_maps(260, 300, seed, num_centers=40, noise=4.0)
        assert_equal_to_detectron2(graph, *maps)


def test_a_batch_is_its_images(graph):
    """Three that have all, one without things, and one without centers."""
    run, _ = graph
    scenes = [random_maps(40, 50, seed, num_centers=n) for seed, n in ((1, 5), (2, 15), (3, 4))]
    scenes.append((torch.ones_like(scenes[0][0]), *scenes[0][1:]))
    scenes.append((scenes[0][0], torch.zeros_like(scenes[0][1]), scenes[0][2]))
    alone = [of_image(*scene) for scene in scenes]
    together = run(tuple(torch.cat(each) for each in zip(*alone, strict=True)))
    for number, single in enumerate(alone):
        for one, other in zip(run(single), together, strict=True):
            assert torch.equal(one[0], other[number])
    assert (together.thing_ids[:3, 0] >= 0).all()
    assert (together.thing_ids[3:] == -1).all()

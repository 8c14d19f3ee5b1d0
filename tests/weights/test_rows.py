"""Files with the names of the published checkpoints load in all eight rows, in each container."""

import collections
import pickle
from functools import lru_cache

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from panoptic_dl.weights.load import compare, load_model
from panoptic_dl.weights.names import rename
from panoptic_dl.weights.read import read_file
from tests.golden import golden
from tests.models.rows import ROWS, build_model, load_shapes

KINDS = ("pth", "pth.of_detectron2", "pkl.arrays", "pkl.tensors", "safetensors")
SMALLEST = "coco_panoptic_xception65_dsconv"


def write(folder, kind, values):
    """A file as one finds them: bare, beside an optimizer's state, or Python's pickle."""
    values = {  # the golden values are all real numbers, counters among them
        n: (v.long() if isinstance(v, torch.Tensor) else v.astype(np.int64))
        if n.endswith("num_batches_tracked")
        else v
        for n, v in values.items()
    }
    file = folder / f"model_final.{kind.partition('.')[0]}"
    tensors = {
        name: value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value))
        for name, value in values.items()
    }
    if kind == "pth":
        torch.save(collections.OrderedDict(tensors), file)
    elif kind == "pth.of_detectron2":
        optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": []}
        more = {"optimizer": optimizer, "scheduler": {"last_epoch": 9}, "iteration": 89999}
        statistics = {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
        torch.save({"model": statistics | tensors, **more}, file)
    elif kind == "safetensors":
        save_file(tensors, file)
    else:
        state = values if kind == "pkl.arrays" else tensors
        content = {"model": state, "__author__": "third_party", "matching_heuristics": True}
        file.write_bytes(pickle.dumps(content, protocol=4))
    return file


@pytest.fixture(scope="module")
def model():
    return build_model(SMALLEST)


@pytest.mark.parametrize("kind", KINDS)
def test_every_value_of_a_row_arrives(tmp_path, kind, model):
    values = golden.weights(SMALLEST, load_shapes(SMALLEST))
    for parameter in model.parameters():
        parameter.data.zero_()
    load_model(model, write(tmp_path, kind, values))
    own = model.state_dict()
    assert own.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(own[name], torch.from_numpy(np.asarray(value)).to(own[name].dtype)), name


@lru_cache
def on_meta(row):
    """Names and shapes of a row's model, without its values."""
    with torch.device("meta"):
        model = build_model(row)
    model.pixel_mean, model.pixel_std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
    return model


@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", ["pth", "pth.of_detectron2"])
@pytest.mark.parametrize("row", ROWS)
def test_the_names_of_every_row_fit_its_model_and_no_other(tmp_path, row, kind):
    """One value stands for each tensor: torch's files keep it once."""
    values = {name: torch.ones(()).expand(shape) for name, shape in load_shapes(row).items()}
    file = write(tmp_path, kind, values)
    assert file.stat().st_size < 3e6
    load_model(on_meta(row), file)
    tensors = rename(read_file(file).tensors).tensors
    for other in ROWS:
        assert (not compare(on_meta(other).state_dict(), tensors).faults) == (other == row)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("kind", KINDS[2:])
@pytest.mark.parametrize("row", ROWS)
def test_the_names_of_every_row_in_the_containers_that_keep_every_value(tmp_path, row, kind):
    values = {n: np.ones(s, np.float16) for n, s in load_shapes(row).items()}
    load_model(on_meta(row), write(tmp_path, kind, values))

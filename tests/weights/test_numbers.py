"""A refused file changes nothing, also where torch itself would fail half-way."""

import pytest
import torch

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.weights.export import write_weights
from panoptic_dl.weights.load import load_model
from panoptic_dl.weights.names import KNOWN, rename

from .small import Tiny, provenance, same

COUNTER = "backbone.1.num_batches_tracked"
ODD = list({v for v in vars(torch).values() if isinstance(v, torch.dtype)} - KNOWN)


def of_kind(shape, dtype):
    """A tensor of any kind: some of them can neither be filled nor converted to."""
    return torch.empty(shape, dtype=dtype)


def is_kept(tmp_path, dtype) -> bool:
    """Whether torch can make, save and read such a tensor at all."""
    try:
        torch.save(of_kind((2, 3), dtype), tmp_path / "probe.pth")
        torch.load(tmp_path / "probe.pth", weights_only=True)
    except Exception:  # torch's kinds of errors for it are many
        return False
    return True


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dtype", sorted(ODD, key=str), ids=str)
def test_numbers_of_odd_kinds_are_refused_before_anything_is_loaded(tmp_path, dtype):
    if not is_kept(tmp_path, dtype):
        pytest.skip("torch has no such tensors in files")
    state = {name: value + 1 for name, value in Tiny().state_dict().items()}
    state["head.bias"] = of_kind(state["head.bias"].shape, dtype)
    torch.save(state, tmp_path / "w.pth")
    target, before = Tiny(), Tiny()
    before.load_state_dict(target.state_dict())
    with pytest.raises(WeightsError, match="nothing was loaded"):
        load_model(target, tmp_path / "w.pth")
    assert same(target, before)
    with pytest.raises(WeightsError, match=r"make them torch\.float32"):
        write_weights(tmp_path / "v.pth", {"a": of_kind((2,), dtype)}, provenance())
    assert rename({"pixel_mean": of_kind((3,), dtype)}).statistics == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_real_numbers_of_the_usual_kinds_are_loaded(tmp_path, dtype):
    state = {
        n: torch.ones_like(v, dtype=dtype) if v.is_floating_point() else v
        for n, v in Tiny().state_dict().items()
    }
    torch.save(state, tmp_path / "w.pth")
    target = Tiny()
    load_model(target, tmp_path / "w.pth")
    assert torch.equal(target.head.bias, torch.ones(2))


@pytest.mark.parametrize("value", [torch.tensor(float("nan")), torch.tensor(1j), torch.zeros(3)])
def test_counters_are_whole_numbers(tmp_path, value):
    torch.save(Tiny().state_dict() | {COUNTER: value}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=COUNTER):
        load_model(Tiny(), tmp_path / "w.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_values_that_are_not_finite_are_warned_of(tmp_path, caplog, value):
    state = Tiny().state_dict()
    state["head.bias"] = torch.tensor([0, value], dtype=torch.float64)
    torch.save(state, tmp_path / "w.pth")
    load_model(Tiny(), tmp_path / "w.pth")
    assert "infinite values or NaN in 1 tensors, such as head.bias" in caplog.text


def test_a_file_that_wraps_itself_is_refused(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="more than 8 wrappers"):
        load_model(Tiny(), tmp_path / "w.pth")


def test_names_in_a_file_move_no_cursor(tmp_path, caplog):
    caplog.set_level("INFO")
    odd = "a\x1b[2J\rforged\nline"
    torch.save(Tiny().state_dict() | {odd: 3}, tmp_path / "w.pth")
    load_model(Tiny(), tmp_path / "w.pth")
    assert "a?[2J?forged?line" in caplog.text
    assert "\x1b" not in caplog.text
    torch.save(Tiny().state_dict() | {odd: torch.zeros(1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"unexpected: a\?\[2J\?forged\?line"):
        load_model(Tiny(), tmp_path / "w.pth")

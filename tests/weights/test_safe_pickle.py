"""`.pkl` runs nothing: arrays come out whole, everything else is refused."""

import collections
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.weights.safe_pickle import read_pickle

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
ARRAYS = {
    "f4": np.arange(6, dtype=np.float32).reshape(2, 3),
    "column-major": np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
    "f2": np.ones(2, np.float16),
    "f8, other byte order": np.array([1.5, -2.0], dtype=">f8"),
    "i8, no axes": np.array(7),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_arrays_numbers_and_plain_values_come_out_as_they_went_in(tmp_path, protocol):
    content = {
        "model": ARRAYS,
        "__author__": "someone",
        "matching_heuristics": True,
        "iteration": np.int64(3),
        "list": [1, (2.5, None)],
    }
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_pickle(tmp_path / "w.pkl")
    for name, array in ARRAYS.items():
        expected = torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))
        assert torch.equal(read["model"][name], expected), name
        assert read["model"][name].dtype == expected.dtype
    assert read["__author__"] == "someone"
    assert read["iteration"] == 3
    assert read["list"] == [1, [2.5, None]]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tensors_as_the_ancestors_converter_pickles_them(tmp_path, protocol):
    """It dumps a state dict of torch tensors with Python's pickle."""
    whole = torch.arange(12.0)
    module = torch.nn.BatchNorm2d(4)
    state = collections.OrderedDict(
        a=whole.reshape(3, 4).t(), b=whole[3:5], c=torch.tensor(5), d=torch.nn.Parameter(whole)
    )
    content = {"model": state, "more": module.state_dict(), "matching_heuristics": True}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(content, protocol))
    read = read_pickle(tmp_path / "w.pkl")
    assert all(torch.equal(read["model"][name], tensor) for name, tensor in state.items())
    assert set(read["more"]) == set(module.state_dict())


def call(module: str, name: str, argument: str) -> bytes:
    """Protocol 0: module.name(argument)."""
    return f"c{module}\n{name}\n(S'{argument}'\ntR.".encode()


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil_was_run",)


def in_a_tensor() -> bytes:
    """A torch storage is a file of its own, which may be malicious in its turn."""
    inner = io.BytesIO()
    torch.save(Evil(), inner, _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner.getvalue(),)

    class Tensor:
        def __reduce__(self):
            arguments = (Storage(), 0, (1,), (1,), False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    return pickle.dumps({"model": {"a": Tensor()}})


REFUSED = {
    "os.system": call("os", "system", "touch evil_was_run"),
    "posix.system": call("posix", "system", "touch evil_was_run"),
    "eval": call("builtins", "eval", "open('evil_was_run','w')"),
    "exec of Python 2": call("__builtin__", "eval", "open('evil_was_run','w')"),
    "subprocess": call("subprocess", "getoutput", "touch evil_was_run"),
    "torch.load": call("torch", "load", "x"),
    "torch's own storage reader": call("torch.serialization", "load", "x"),
    "numpy.load": call("numpy", "load", "x"),
    "numpy's testing shell": call("numpy.testing._private.utils", "runstring", "x"),
    "dotted": call("collections", "OrderedDict.fromkeys", "x"),
    "in a dict": pickle.dumps({"model": {"a": Evil()}}),
    "behind the end": pickle.dumps({"model": {}}) + pickle.dumps(Evil()),
    "in a tensor": in_a_tensor(),
    "in an array of objects": pickle.dumps({"a": np.array([Evil()], dtype=object)}),
    "array of objects": pickle.dumps({"a": np.array([None], dtype=object)}),
    "INST": b"(S'touch evil_was_run'\nios\nsystem\n.",
    "OBJ": b"(ccollections\nOrderedDict\nS'touch evil_was_run'\no.",
    "NEWOBJ": b"\x80\x02ccollections\nOrderedDict\n)\x81.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"Pevil\n.",
    "changes a function": b"\x80\x02cnumpy\ndtype\n}X\x04\x00\x00\x00makeK\x01sb.",
    "changes a name by slots": b"\x80\x02cnumpy\ndtype\nN}X\x04\x00\x00\x00makeK\x01s\x86b.",
    "calls ndarray": b"\x80\x02cnumpy\nndarray\nK\x03\x85R.",
    "bytes of 64 GB": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 36) + b"x.",
    "bytearray of 64 GB": b"\x80\x05\x96" + struct.pack("<Q", 1 << 36) + b"x.",
    "deep": b"(" * 100000 + b"t" * 100000 + b".",
    "itself": b"\x80\x02]q\x00h\x00a.",
    "text array": pickle.dumps({"model": {"a": np.array(["x"])}}),
    "dates": pickle.dumps({"model": {"a": np.array(["2020-01-01"], dtype="M8[s]")}}),
    "records": pickle.dumps({"model": {"a": np.zeros(1, dtype=[("x", "f4")])}}),
    "array without state": b"\x80\x02}X\x01\x00\x00\x00acnumpy.core.multiarray\n_reconstruct\n)Rs.",
    "bytes of something": b"\x80\x02c__builtin__\nbytes\nK\x09\x85R.",
    "text in another encoding": call("_codecs", "encode", "x"),
    "text in a named encoding": (
        b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00xX\x05\x00\x00\x00utf_7\x86R."
    ),
    "changes a value": (
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
        b"c__builtin__\nbytes\n)R\x86R}b."
    ).replace(b"c__builtin__\nbytes\n)R", b"X\x01\x00\x00\x00a"),
    "set": b"\x80\x04\x8f.",
    "empty": b"",
    "no pickle": b"PK\x03\x04 hello",
    "no end": pickle.dumps({"a": 1})[:-1],
}


REASONS = {
    "behind the end": "bytes follow its end",
    "array of objects": "dtype O8 .*and not of numbers",
    "INST": "instruction INST",
    "OBJ": "instruction OBJ",
    "NEWOBJ": "instruction NEWOBJ",
    "extension registry": "instruction EXT1",
    "persistent id": "instruction PERSID",
    "set": "instruction EMPTY_SET",
    "changes a function": "tries to change an object",
    "changes a name by slots": "tries to change an object",
    "changes a value": "truncated",
    "calls ndarray": "not callable",
    "bytes of something": "TypeError",
    "text in another encoding": "TypeError",
    "text in a named encoding": "encodes text other than bytes",
    "bytes of 64 GB": "truncated",
    "bytearray of 64 GB": "truncated",
    "array without state": "without a dtype",
    "deep": "too deeply",
    "itself": "too deeply|more values",
    "text array": "and not of numbers",
    "dates": "and not of numbers",
    "records": "and not of numbers",
    "empty": "empty",
    "no pickle": "no pickle|instruction",
    "no end": "truncated",
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_is_refused_and_nothing_is_run_or_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pkl").write_bytes(REFUSED[name])
    reason = REASONS.get(name, "it asks for")
    with pytest.raises(WeightsError, match=rf"w\.pkl is .*{reason}"):
        read_pickle(tmp_path / "w.pkl")
    assert os.listdir(tmp_path) == ["w.pkl"]


def tensor_of(size: tuple, stride: tuple, offset: int) -> bytes:
    """A tensor of four values whose shape says something else."""
    storage = torch.zeros(4).storage()

    class Odd:
        def __reduce__(self):
            arguments = (storage, offset, size, stride, False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, arguments

    return pickle.dumps({"model": {"a": Odd()}})


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    ("size", "stride", "offset"),
    [
        ((5,), (1,), 0),
        ((2,), (4,), 0),
        ((4,), (1,), 1),
        ((2,), (-1,), 1),
        ((-1,), (1,), 0),
        ((2,), (1,), -1),
        ((10**9, 10**9), (0, 0), 0),
        ((4,), (1, 1), 0),
        ((2.0,), (1,), 0),
    ],
)
def test_tensors_stay_inside_of_their_numbers(tmp_path, size, stride, offset):
    (tmp_path / "w.pkl").write_bytes(tensor_of(size, stride, offset))
    with pytest.raises(WeightsError, match="it holds"):
        read_pickle(tmp_path / "w.pkl")


def test_arrays_stay_inside_of_their_bytes(tmp_path):
    whole = pickle.dumps(np.zeros(4, np.uint8), 2).replace(b"K\x04\x85", b"K\x09\x85")
    (tmp_path / "w.pkl").write_bytes(whole)
    with pytest.raises(WeightsError, match=r"shape \[9\] with 4 values"):
        read_pickle(tmp_path / "w.pkl")


def test_places_of_memory_cost_nothing(tmp_path):
    """Python's unpickler in C would make an array of 64 GB."""
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02]r\xff\xff\xff\xff.")
    assert read_pickle(tmp_path / "w.pkl") == []


def test_repeated_parts_do_not_blow_up(tmp_path):
    part: list = [0]
    for _ in range(40):
        part = [part, part]
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(part))
    with pytest.raises(WeightsError, match="more values than bytes"):
        read_pickle(tmp_path / "w.pkl")

"""Small files that would take all time, memory or stack of a reader are refused at once.

Each is read in a process of its own, with limits: a crash there is a failed test here.
"""

import collections
import io
import os
import pickle
import re
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from panoptic_dl.weights.files import read_weights

TREE = b"}K\x01" + b"2\x86" * 60  # POP-free doubling: a tuple of two of the last, sixty times
DEEP = b")" + b"\x85" * 1_000_000
MEMORY = 3 << 30  # bytes of address space beside what the imports take

SECONDS = 20


def read(file) -> str:
    """What a reader in a process of its own says: forked, for torch takes seconds to import."""
    said = file.with_suffix(".said")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        try:
            read_weights(file)
            said.write_text("it was read")
        except ValueError as error:
            said.write_text(f"refused: {error}")
        except BaseException as error:
            said.write_text(f"failed: {type(error).__name__}")
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the reader ended with {status}: 24 is more than {SECONDS} s of the CPU"
    return said.read_text()


def one_part_for_many(call: str, size: int = 4_000_000, times: int = 1500) -> bytes:
    """A pickle in protocol 3 that makes `times` arrays of the same bytes or text."""
    if call == "array":
        name, state = b"cnumpy.core.multiarray\n_reconstruct\n", b"b"
        data = b"B" + size.to_bytes(4, "little") + bytes(size)
        shape = b"J" + size.to_bytes(4, "little") + b"\x85"
        dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00u1\x85R"
        memo = data + b"q\x000(K\x01" + shape + dtype + b"\x89h\x00tq\x010"
        return b"\x80\x03]" + memo + b"".join([name, b")R", b"h\x01", state, b"a"] * times) + b"."
    data = b"X" + size.to_bytes(4, "little") + b"a" * size
    memo = data + b"q\x000X\x06\x00\x00\x00latin1q\x010"
    return (
        b"\x80\x03]" + memo + b"c_codecs\nencode\nq\x020" + b"h\x02h\x00h\x01\x86Ra" * times + b"."
    )


def one_tensor_for_many() -> bytes:
    class Odd:
        def __init__(self, storage):
            self.storage = storage

        def __reduce__(self):
            shape = (self.storage.nbytes() // 4,)
            more = (False, collections.OrderedDict())
            return torch._utils._rebuild_tensor_v2, (self.storage, 0, shape, (1,), *more)

    storage = torch.zeros(1_000_000).storage()
    return pickle.dumps({"model": {str(n): Odd(storage) for n in range(1500)}})


def with_storage(inner: bytes) -> bytes:
    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (inner,)

    arguments = (Storage(), 0, (4,), (1,), False, collections.OrderedDict())

    class Weights:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, arguments

    return pickle.dumps({"model": {"a": Weights()}})


def deflated() -> bytes:
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(torch.zeros(1 << 20).storage(), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as to:
        for name in source.namelist():
            to.writestr(name, source.read(name))
    return packed.getvalue()


def claimed(count: int) -> bytes:
    """torch's old format with the numbers of another storage claimed."""
    plain = io.BytesIO()
    torch.save(torch.zeros(4).storage(), plain, _use_new_zipfile_serialization=False)
    return plain.getvalue().replace(b"K\x04N", b"J" + count.to_bytes(4, "little") + b"N")


def inside_of_storage(program: bytes) -> bytes:
    plain = io.BytesIO()
    torch.save(torch.zeros(4).storage(), plain, _use_new_zipfile_serialization=False)
    end = plain.getvalue().index(b"}")  # that of the writer's system
    return plain.getvalue()[: end - 2] + program


def array_of(dtype: bytes) -> bytes:
    """A pickle of one array, of no bytes; `dtype` is what follows the name of numpy's dtype."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n)R"
    return b"\x80\x02" + array + b"(K\x01)cnumpy\ndtype\n" + dtype + b"\x89U\x00tb."


HOSTILE = {
    "shared tuples for a key": (b"\x80\x02" + TREE + b"K\x01s.", "unhashable"),
    "shared tuples for keys": (b"\x80\x02}(K\x01" + b"2\x86" * 60 + b"K\x01u.", "unhashable"),
    "shared tuples in a DICT": (b"(K\x01" + b"2\x86" * 60 + b"K\x01d.", "unhashable"),
    "shared tuples as pairs": (
        b"\x80\x02ccollections\nOrderedDict\n]K\x01" + b"2\x86" * 60 + b"K\x01\x86a\x85R.",
        "unhashable",
    ),
    "shared tuples as a dtype": (
        array_of(b"K\x01" + b"2\x86" * 60 + b"\x85R"),
        r"dtype \(list\)",
    ),
    "shared tuples as byte order": (
        array_of(b"X\x02\x00\x00\x00f4\x85RK\x03K\x01" + b"2\x86" * 60 + b"\x86b"),
        r"byte order \(list\)",
    ),
    "shared tuples as a value": (b"\x80\x02}X\x01\x00\x00\x00a" + TREE[1:] + b"s.", "more values"),
    "deep tuple for a key": (b"\x80\x02}" + DEEP + b"K\x01s.", "unhashable"),
    "deep tuple as a value": (b"\x80\x02}X\x01\x00\x00\x00a" + DEEP + b"s.", "too deeply"),
    "deep tuple as a dtype": (array_of(DEEP + b"\x85R"), r"dtype \(list\)"),
    "one part for many arrays": (one_part_for_many("array"), "more values than bytes"),
    "one text for many bytes": (one_part_for_many("bytes"), "holds no parameters"),
    "one storage for many tensors": (one_tensor_for_many(), "more values than bytes"),
    "a compressed archive inside": (with_storage(deflated()), "w.pkl"),
    "claims numbers that are not there": (with_storage(claimed(1 << 30)), "torn tensor"),
    "shared tuples inside of a storage": (
        with_storage(inside_of_storage(b"\x80\x02" + TREE + b"K\x01s.")),
        "unhashable",
    ),
    "a large number": (b"\x80\x02K\x01\x8b\x80\x84\x1e\x00" + b"\x7f" * 2_000_000 + b"s.", "w.pkl"),
}


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_small_file_takes_little(tmp_path, name):
    content, reason = HOSTILE[name]
    (tmp_path / "w.pkl").write_bytes(content)
    said = read(tmp_path / "w.pkl")
    assert said.startswith("refused: weights="), said
    assert re.search(reason, said), said


def test_a_file_that_wraps_itself(tmp_path):
    content: dict = {}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    assert "more than 8 wrappers" in read(tmp_path / "w.pth")


def test_parts_that_are_rightly_shared_are_read(tmp_path):
    """Empty and single bytes are one object in Python, and tied weights one tensor."""
    tied = np.ones(1000, np.float32)
    state = {str(n): np.array(True) for n in range(300)} | {"a": tied, "b": tied}
    for protocol in range(6):
        (tmp_path / "w.pkl").write_bytes(pickle.dumps(state, protocol))
        assert read_weights(tmp_path / "w.pkl").tensors.keys() == state.keys()

"""Lazy files become trees that YAML can hold, or are refused with file and key."""

import builtins
import importlib.util
import os
from types import SimpleNamespace

import pytest
from torch import nn

from panoptic_dl.config import build, lazy
from panoptic_dl.config.lazy import ConfigFolder, _load, _trees


def lazy_file(tmp_path, body: str):
    file = tmp_path / "x.py"
    file.write_text("from detectron2.config import LazyCall as L\n" + body + "\n")
    return file


@pytest.mark.parametrize(
    "body",
    [
        "b = dict(f=lambda c: c)",
        "def g(): pass\nb = L(g)()",
        "import torch\nb = dict(d=torch.float16)",
        "from pathlib import Path\nb = dict(p=Path('x'))",
        "b = dict(x={1})",
        "class A: pass\nb = L(A)()",
        "from functools import partial\nb = dict(f=partial(max, 1))",
    ],
)
def test_what_yaml_cannot_hold_is_refused(tmp_path, body):
    with pytest.raises(ValueError, match=r"x\.py"):
        _load(lazy_file(tmp_path, body), "b")


def test_a_missing_variable_is_named_with_what_is_there(tmp_path):
    with pytest.raises(ValueError, match=r"must define `backbone`.*\['head'\]"):
        _load(lazy_file(tmp_path, "head = dict(x=1)"), "backbone")


def test_companions_come_along_and_others_do_not(tmp_path):
    file = lazy_file(tmp_path, "backbone = dict(x=1)\npixels = dict(y=(1, 2))\nd = dict(z=3)")
    expected = {"backbone": {"x": 1}, "pixels": {"y": [1, 2]}}
    assert _load(file, "backbone") == expected
    file = lazy_file(tmp_path, 'backbone = dict(x=1)\npretrained = dict(name="a.pth")')
    with pytest.raises(ValueError, match=r"write pretrained = dict\(file=..., source=...\)"):
        _load(file, "backbone")


def test_a_file_that_was_changed_is_read_again(tmp_path):
    (tmp_path / "head").mkdir()
    source = ConfigFolder("mine", f"file://{tmp_path}")
    for x in (1, 2):
        (tmp_path / "head" / "mine.py").write_text(f"head = dict(x={x})")
        os.utime(tmp_path / "head" / "mine.py", (x, x))
        assert source.load_config("head/mine").config.head.x == x


def test_factories_become_partials(tmp_path):
    body = (
        "from functools import partial\nfrom torch import nn\n"
        "b = dict(act=nn.GELU, norm=partial(nn.LayerNorm, eps=1e-6))"
    )
    tree = _load(lazy_file(tmp_path, body), "b")["b"]
    assert tree == {
        "act": {"_target_": "torch.nn.GELU", "_partial_": True},
        "norm": {"_target_": "torch.nn.LayerNorm", "_partial_": True, "eps": 1e-6},
    }
    assert isinstance(build(tree)["act"](), nn.GELU)
    assert build(tree)["norm"](8).eps == 1e-6


def test_dataclasses_keep_their_type(tmp_path):
    body = "from detectron2.layers import ShapeSpec\nb = dict(s=ShapeSpec(channels=3))"
    tree = _load(lazy_file(tmp_path, body), "b")["b"]
    assert tree["s"]["_target_"] == "detectron2.layers.ShapeSpec"
    assert build(tree)["s"].channels == 3


def test_import_is_restored_when_a_file_raises(tmp_path):
    before = builtins.__import__
    with pytest.raises(ZeroDivisionError):
        _load(lazy_file(tmp_path, "b = 1 / 0"), "b")
    assert builtins.__import__ is before


def test_trees_are_kept_between_processes_until_a_source_changes(tmp_path, monkeypatch):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "cache"))
    executed = []
    monkeypatch.setattr(lazy, "_load", lambda *args: executed.append(args) or _load(*args))

    def in_another_process():
        _trees.cache_clear()
        return _trees(file, 0, "b")

    file = lazy_file(tmp_path, "from .y import size\nb = dict(x=(size, 1.5, None), y='${a.b}')")
    for size in (3, 4):
        (tmp_path / "y.py").write_text(f"size = {size}")
        assert [in_another_process() for _ in range(2)] == [
            {"b": {"x": [size, 1.5, None], "y": "${a.b}"}}
        ] * 2
    assert len(executed) == 2
    monkeypatch.setattr(lazy, "_package_digest", lambda: b"another version of the package")
    in_another_process()
    assert len(executed) == 3
    (kept,) = (tmp_path / "cache" / "lazy").iterdir()
    kept.write_text("{")
    assert in_another_process()["b"]["x"][0] == 4
    assert len(executed) == 4


def test_another_detectron2_makes_other_trees(tmp_path, monkeypatch):
    file = tmp_path / "__init__.py"
    file.touch()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(file)))
    digests = set()
    for modified in (1, 2, 2):
        os.utime(file, ns=(0, modified))
        digests.add(lazy._package_digest.__wrapped__())
    assert len(digests) == 2


@pytest.mark.parametrize(
    "body",
    [
        "import os\nb = dict(x=os.environ.get('X', '1'))",
        "from panoptic_dl.config import allow\nallow('mine')\nb = dict(x=1)",
        "b = {1: 2}",  # JSON would make a text of the key
    ],
)
def test_a_tree_that_may_depend_on_more_is_not_kept(tmp_path, monkeypatch, body):
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "cache"))
    _trees(lazy_file(tmp_path, body), 0, "b")
    assert not (tmp_path / "cache").exists()

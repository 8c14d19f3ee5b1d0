"""Data in any place: on read-only disks, in archives, with what macOS leaves beside it."""

import shutil
from pathlib import Path

import pytest

from tests.datasets.tiny_custom import write_own
from tests.datasets.tiny_datasets import write_cityscapes, write_coco
from tests.runs import SMALL, in_process

RUN = [
    *SMALL,
    "logger=none",
    "evaluation.official=true",
    "dataset.min_size_test=60",
    "dataset.stuff_area=0",
]


def write_data(folder: Path, kind: str) -> list[str]:
    """Write a dataset without polygons; return the overrides that choose it."""
    counts = {"train": 3, "val": 2}
    if kind == "cityscapes":
        write_cityscapes(folder, **counts)
    elif kind == "coco_format":
        write_own(folder, sizes=((60, 80),), **counts)
    else:
        write_coco(folder, **counts)
    for file in folder.rglob("*_polygons.json"):
        file.unlink()
    dataset = kind.removesuffix(" packed")
    if "packed" in kind:
        for name in ("train2017", "val2017", "panoptic_train2017", "panoptic_val2017"):
            shutil.make_archive(str(folder / "coco" / name), "zip", folder / "coco", name)
            shutil.rmtree(folder / "coco" / name)
    return [f"dataset={dataset}", f"dataset.root={folder}"]


def state(folder: Path) -> dict[str, tuple[int, int, int, int]]:
    """Names of all that is in a folder, and the states by which a change is seen."""
    found = {str(path): path.lstat() for path in (folder, *folder.rglob("*"))}
    return {path: (s.st_ino, s.st_size, s.st_mtime_ns, s.st_mode) for path, s in found.items()}


@pytest.mark.parametrize("kind", ["cityscapes", "coco", "coco packed", "coco_format"])
def test_nothing_is_written_beside_the_data(tmp_path, kind, monkeypatch):
    data = tmp_path / "data"
    options = write_data(data, kind)
    for path in sorted(data.rglob("*"), reverse=True):
        path.chmod(0o555 if path.is_dir() else 0o444)
    data.chmod(0o555)
    before = state(data)  # for root, who may write all the same
    monkeypatch.setenv("PANOPTIC_DL_CACHE", str(tmp_path / "cache"))
    try:
        results = in_process(tmp_path / "run", *RUN, *options)
        assert "panoptic_seg" in str(results)
        in_process(tmp_path / "doctor", *RUN, *options, "mode=doctor", "doctor.sample=null")
        in_process(tmp_path / "browse", *RUN, *options, "mode=browse", "browse.count=1")
        assert state(data) == before
    finally:
        for path in (data, *data.rglob("*")):
            path.chmod(0o755)


@pytest.mark.parametrize("kind", ["cityscapes", "coco", "coco_format"])
def test_what_macos_leaves_is_no_data(tmp_path, kind):
    data = tmp_path / "data"
    options = write_data(data, kind)
    found = []
    for number in range(2):
        found.append(in_process(tmp_path / f"run {number}", *RUN, *options))
        for path in list(data.rglob("*")):
            (path.parent / ".DS_Store").write_bytes(b"\0Bud1")
            (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7 of a Mac")
    assert str(found[0]) == str(found[1])

"""ADE20K, VOC, BDD100K and Mapillary Vistas are prepared from their archives."""

import io
import re
import shutil
import tarfile
from pathlib import Path

import pytest

from panoptic_dl.core.errors import DatasetError
from preparation import OfficialArchive, unpack_tar
from scripts.prepare_dataset import DATASETS, prepare_dataset
from tests.datasets.official_folders import write_ade20k, write_bdd100k, write_mapillary, write_voc
from tests.scripts.packed import files_below, pack, quiet

WRITERS = {
    "ade20k": lambda root: write_ade20k(root, training=2, validation=1),
    "bdd100k": lambda root: write_bdd100k(root, train=2, val=1),
    "mapillary": lambda root: write_mapillary(root, "v2.0", training=2, validation=1),
    "voc": lambda root: write_voc(root, train=2, val=1),
}


def archive(source: Path, target: Path, name: str) -> None:
    """The archives of a dataset as its authors pack them."""
    folder = DATASETS[name].folder
    for official, into in DATASETS[name].archives.items():
        base = source / into
        files = [f for f in sorted((source / folder).rglob("*")) if f.is_file()]
        files = [f for f in files if official.wanted.fullmatch(f.relative_to(base).as_posix())]
        if official.name.endswith(".zip"):
            pack(target / official.name, base, files, README="of the authors")
            continue
        with tarfile.open(target / official.name, "w") as tar:
            for file in files:
                tar.add(file, f"./{file.relative_to(base)}")


@pytest.mark.parametrize("name", DATASETS)
def test_archives_become_the_dataset(tmp_path, name, run_script):
    source, target = WRITERS[name](tmp_path / "source"), tmp_path / "target"
    target.mkdir()
    dataset = DATASETS[name]
    code, _, err = run_script("prepare_dataset.py", name, target, "--check")
    assert code == 1
    assert err.startswith(f"error: {dataset.title}: folder missing: {target}/{dataset.folder}/")
    assert f"into {target}/{dataset.folder} or {target}:" in err
    for official in dataset.archives:
        assert official.name in err
    archive(source, target, name)
    code, out, err = run_script("prepare_dataset.py", name, target, "--workers", "1")
    assert code == 0, err
    assert files_below(target / dataset.folder) == files_below(source / dataset.folder)
    first, official = next(iter(dataset.counts.items()))
    assert f"{first}: 2 of the official {official} images: good for trials" in out
    assert re.search(
        rf"ready: dataset={name} (dataset\.version=v2\.0 )?dataset\.root={target}", out
    )
    for file in target.glob("*.*"):  # as the script said they can be
        file.unlink()
    for more in ((), ("--check",)):
        code, again, _ = run_script("prepare_dataset.py", name, target / dataset.folder, *more)
        assert code == 0
        assert again.splitlines() == out.splitlines()[-len(again.splitlines()) :]


def test_what_the_reader_refuses_is_not_ready(tmp_path):
    root = WRITERS["ade20k"](tmp_path)
    label = next((root / "ADEChallengeData2016" / "annotations_instance").rglob("*.png"))
    label.write_bytes(label.read_bytes()[:60])
    with pytest.raises(DatasetError, match=label.name):
        prepare_dataset("ade20k", root, say=quiet)
    shutil.rmtree(label.parent)
    with pytest.raises(DatasetError, match="ADE20K"):
        prepare_dataset("ade20k", root, say=quiet)


def test_a_torn_or_hostile_tar_is_named(tmp_path):
    official = OfficialArchive("all.tar", 1000, re.compile(r"a/\w+\.txt"))
    with tarfile.open(tmp_path / "all.tar", "w") as tar:
        for name in ("a/one.txt", "../a/out.txt", "/a/root.txt", "b/other.txt"):
            info = tarfile.TarInfo(name)
            info.size = 5
            tar.addfile(info, io.BytesIO(b"12345"))
        link = tarfile.TarInfo("a/link.txt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    lines: list[str] = []
    unpack_tar(official, [tmp_path], tmp_path / "out", say=lines.append)
    assert list(files_below(tmp_path / "out")) == ["a/one.txt"]
    assert not (tmp_path / "a").exists()
    assert lines[-1] == "all.tar: 1 files unpacked; it can be deleted"
    unpack_tar(official, [tmp_path], tmp_path / "out", say=lines.append)
    assert lines[-1] == "all.tar: unpacked already, 1 files; it can be deleted"
    (tmp_path / "all.tar").write_bytes((tmp_path / "all.tar").read_bytes()[:514])
    (tmp_path / "out" / "a" / "one.txt").unlink()
    with pytest.raises(DatasetError, match=r"damaged or incomplete archive: .*all\.tar"):
        unpack_tar(official, [tmp_path], tmp_path / "out", say=quiet)
    assert not files_below(tmp_path / "out")
    (tmp_path / "all.tar").write_bytes(b"<html>not found</html>" * 50)
    with pytest.raises(DatasetError, match=r"damaged or incomplete archive: .*all\.tar"):
        unpack_tar(official, [tmp_path], tmp_path / "out", say=quiet)

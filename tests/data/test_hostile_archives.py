"""Archives that were made to do harm are refused as a whole."""

import stat
from pathlib import Path

import pytest

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.prepare import archives as find
from panoptic_dl.datasets.prepare.archives import HostileArchive

from .coco_archives import IMAGE, images, run, tree, write

NAMES = [
    *("../evil.jpg", "val2017/../../evil.jpg", "/tmp/evil.jpg", "C:/evil.jpg", "//host/evil.jpg"),
    *("val2017\\..\\..\\evil.jpg", "..", "val2017/\0evil.jpg"),
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_leads_elsewhere_refuses_the_archive(tmp_path, name):
    placeholder = "x" * len(name)  # zipfile itself would mend some of the names
    path = write(tmp_path / "any.zip", *images(1), (placeholder, b"evil"))
    path.write_bytes(path.read_bytes().replace(placeholder.encode(), name.encode()))
    before = tree(tmp_path)
    with pytest.raises(HostileArchive, match="refused, nothing of it was unpacked"):
        run(tmp_path)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("mode", [stat.S_IFLNK | 0o777, stat.S_IFCHR | 0o600, stat.S_IFIFO])
def test_links_and_devices_are_refused(tmp_path, mode):
    write(tmp_path / "val2017.zip", (IMAGE.format(0), b"/etc/passwd"), mode=mode)
    with pytest.raises(HostileArchive, match="is a link or a device"):
        run(tmp_path)


def test_a_name_that_comes_twice_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(tmp_path / "val2017.zip", *images(1), *images(1))
    with pytest.raises(HostileArchive, match="comes twice"):
        run(tmp_path)


def patched(path: Path, name: str, **fields: int) -> None:
    """Change numbers of a member in the archive's directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    for offset, length, value in {
        "flags": (8, 2, fields.get("flags")),
        "size": (24, 4, fields.get("size")),
    }.values():
        if value is not None:
            data[entry + offset : entry + offset + length] = value.to_bytes(length, "little")
    path.write_bytes(data)


def test_encrypted_members_are_refused(tmp_path):
    patched(write(tmp_path / "val2017.zip", *images(1)), IMAGE.format(0), flags=1)
    with pytest.raises(HostileArchive, match="is encrypted"):
        run(tmp_path)


def test_a_bomb_is_refused_by_what_it_declares(tmp_path, monkeypatch):
    patched(write(tmp_path / "val2017.zip", *images(1)), IMAGE.format(0), size=3_000_000_000)
    monkeypatch.setattr(find, "MOST_BYTES", 2_000_000_000)
    with pytest.raises(HostileArchive, match=r"would unpack to 3 GB"):
        run(tmp_path)


@pytest.mark.parametrize("declared", [100, 60_000])
def test_a_member_gives_no_more_and_no_less_than_it_declares(tmp_path, declared):
    path = write(tmp_path / "val2017.zip", (IMAGE.format(0), bytes(50_000)))
    patched(path, IMAGE.format(0), size=declared)
    with pytest.raises(DatasetError, match="damaged or incomplete"):
        run(tmp_path)
    assert tree(tmp_path / "coco") == {}

"""Unpack archives over several processes; a second run continues an interrupted one.

A member is unpacked under another name, its checksum compared, and then renamed: a file is there
whole or not at all. So a file of the right size is taken for done. Its checksum is not looked at
again: reading 20 GB to find what cannot happen would make every second run as slow as the first.
"""

import errno
import os
import shutil
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath

from panoptic_dl.data.archives.find import Archive, errors_of
from panoptic_dl.data.archives.kinds import Kind
from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.unfinished import is_unfinished, whole
from panoptic_dl.data.work import Progress, Say, share_out, size_text, stop_if_asked

BLOCK = 1 << 20  # bytes
JOB_BYTES, JOB_MEMBERS = 8 << 20, 64  # one job's share: small, for a quick end on Ctrl-C
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def unpack(archives: Sequence[Archive], base: Path, *, num_workers: int, say: Say) -> None:
    """Unpack the wanted members below `base`, where they are not there yet.

    Archives stay where they are.

    Raises:
        DatasetError: the disk has too little room, which is found before anything is written; an
            archive is damaged; a file cannot be written.
    """
    there = _Files()
    missing = {
        archive.path: [
            info for info in archive.members if there.size(base / info.filename) != info.file_size
        ]
        for archive in archives
    }
    check_room(
        [(base / info.filename, info.file_size) for infos in missing.values() for info in infos]
    )
    for archive in archives:
        _unpack_one(archive, missing[archive.path], base, num_workers, say)


def check_room(files: Sequence[tuple[Path, int]]) -> None:
    """Raise `DatasetError` unless the disks have room for files that are to come, (path, bytes)."""
    folders: Counter[Path] = Counter()
    for path, size in files:
        folders[path.parent] += -(-size // 4096) * 4096
    needs: Counter[int] = Counter()
    places = {}
    for folder, size in folders.items():
        place = folder
        while not place.exists():
            place = place.parent
        device = place.stat().st_dev
        needs[device] += size
        places[device] = place
    for device, need in needs.items():
        free = shutil.disk_usage(places[device]).free
        if need > free:
            raise DatasetError(
                f"not enough room: {size_text(need)} are to be unpacked and {size_text(free)} are "
                f"free on the disk of {places[device]}. Nothing was written. Free "
                f"{size_text(need - free)} (see `df -h {places[device]}`), or put the dataset's "
                "folder on another disk, and run this again"
            )


def _unpack_one(
    archive: Archive, infos: list[zipfile.ZipInfo], base: Path, num_workers: int, say: Say
) -> None:
    name = archive.path.name
    if archive.path.name != archive.kind.name:
        say(f"{name}: is {archive.kind.name}, by what is in it")
    if not infos:
        say(f"{name}: unpacked already, {len(archive.members)} files; it can be deleted")
        return
    for folder in {(base / info.filename).parent for info in infos}:
        folder.mkdir(parents=True, exist_ok=True)
    jobs = [
        (archive.path, archive.kind, base, [i.filename for i in share]) for share in _shares(infos)
    ]
    progress = Progress(name, sum(info.file_size for info in infos), say, unit="B")
    try:
        with closing(share_out(_unpack_members, jobs, num_workers)) as results:
            for done in results:
                progress.add(done)
    finally:
        progress.close()
        _opened.clear()
    if archive.others:
        number = len(archive.others)
        # A name could hold what a terminal obeys.
        shown = [text if text.isprintable() else ascii(text) for text in archive.others[:3]]
        shown += ["..."] if number > 3 else []
        say(f"{name}: {number} other file{'s' * (number > 1)} kept in it: {', '.join(shown)}")
    say(f"{name}: {len(infos)} files unpacked; it can be deleted")


def _shares(infos: Sequence[zipfile.ZipInfo]) -> Iterator[list[zipfile.ZipInfo]]:
    """Neighbours in the archive, some MB together."""
    share: list[zipfile.ZipInfo] = []
    size = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if share and (len(share) == JOB_MEMBERS or size + info.file_size > JOB_BYTES):
            yield share
            share, size = [], 0
        share.append(info)
        size += info.file_size
    yield share


class _Files:
    """Sizes of files, each folder listed once; removes what killed processes left there."""

    def __init__(self) -> None:
        self._sizes: dict[Path, dict[str, int]] = {}

    def size(self, path: Path) -> int | None:
        folder = path.parent
        if folder not in self._sizes:
            self._sizes[folder] = self._list(folder)
        return self._sizes[folder].get(path.name)

    def _list(self, folder: Path) -> dict[str, int]:
        sizes = {}
        if folder.is_dir():
            with os.scandir(folder) as entries:
                for entry in entries:
                    if is_unfinished(entry.name):
                        os.unlink(entry)
                    elif entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        return sizes


_opened: dict[Path, zipfile.ZipFile] = {}  # of this process: a directory of 118,287 takes a second


def _unpack_members(path: Path, kind: Kind, base: Path, names: list[str]) -> int:
    """A worker's job; returns the bytes written."""
    with errors_of(path, kind):
        if path not in _opened:
            _opened[path] = zipfile.ZipFile(path)
    return sum(_unpack_member(_opened[path], kind, name, base) for name in names)


def _unpack_member(file: zipfile.ZipFile, kind: Kind, name: str, base: Path) -> int:
    path, target, written = Path(str(file.filename)), base.joinpath(*PurePosixPath(name).parts), 0
    try:
        with whole(target) as unfinished, errors_of(path, kind, name):
            info = file.getinfo(name)
            # Never more than `file_size` bytes come out; the last read compares the checksum.
            with file.open(info) as source, unfinished.open("wb") as sink:
                while block := source.read(BLOCK):
                    stop_if_asked()
                    written += sink.write(block)
            if written != info.file_size:
                raise EOFError(f"{written} bytes instead of {info.file_size}")
    except OSError as error:
        if error.errno in NO_ROOM:
            raise DatasetError(
                f"the disk is full: {target} could not be written. What was unpacked is kept: free "
                "some room and run the same command again"
            ) from error
        raise DatasetError(
            f"cannot unpack {name} of {path} to {target}: {error.strerror or error}"
        ) from error
    return written

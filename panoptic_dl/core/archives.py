"""Files in zip archives, read in place: `/data/train2017.zip/train2017/000000000009.jpg`.

An archive is opened once a process, and its directory read once. Threads and forked processes share
both: members are read by their offset, and no position is shared. Nothing is written; a name that
leads out of an archive is a name like any other.
"""

import errno
import os
import re
import struct
import zipfile
import zlib
from contextlib import suppress
from functools import lru_cache
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import require_file

try:
    from isal import isal_zlib
except ImportError:  # panoptic_dl.runtime does without
    isal_zlib = zlib  # type: ignore[misc]

_SUFFIX = re.compile(r"\.(zip|tar|tar\.(gz|bz2|xz|zst)|tgz|tbz2|txz)(?=/|$)", re.IGNORECASE)
_COLUMNS = "header_offset", "compress_size", "file_size", "compress_type", "flag_bits", "CRC"
_HEADER, _EXTRA = 30, 64  # bytes before the name of a member where it lies, and mostly behind it


def open_file(path: str | Path) -> BinaryIO:
    """Open a file for reading, on disk or in an archive.

    Raises:
        OSError: it is missing, damaged, encrypted, or no regular file.
        DatasetError: the archive as a whole cannot be read.
    """
    archive, name = _split(path)
    if archive is not None:
        return BytesIO(archive.read(name))
    require_file(path)
    return open(path, "rb")


def read_file(path: str | Path) -> bytes:
    """The contents of a file, on disk or in an archive; see `open_file` for errors."""
    with open_file(path) as file:
        return file.read()


def file_state(path: str | Path) -> tuple[str, int, int]:
    """Name, time of change (ns) and size of a file or folder; zeros where there is none.

    The time is the archive's for what is in one, and so is the size of a folder in it.
    """
    try:
        archive, name = _split(path)
        if archive is None:
            status = os.stat(path)
            return str(path), status.st_mtime_ns, status.st_size
        changed, size = archive.state
        is_file = name in archive.rows or not is_folder(path)
        return str(path), changed, archive.member(name)[2] if is_file else size
    except (OSError, ValueError):  # such as a name that no disk can have
        return str(path), 0, 0


def is_folder(path: str | Path) -> bool:
    """Whether there is a folder, on disk or in an archive; an archive is one itself."""
    archive, name = _split(path)
    return os.path.isdir(path) if archive is None else not name or bool(archive.below(name))


def list_folder(path: str | Path) -> list[str]:
    """Names of the files and folders in a folder, on disk or in an archive."""
    archive, name = _split(path)
    if archive is None:
        return os.listdir(path)
    return list({below.partition("/")[0] for below in archive.below(name)})


def files_below(folder: Path) -> list[str]:
    """Names of all files in a folder and in its folders, relative to it, in order."""
    archive, name = _split(folder)
    if archive is not None:
        return sorted(archive.below(name))
    found = (os.path.join(where, file) for where, _, files in os.walk(folder) for file in files)
    return sorted(os.path.relpath(file, folder) for file in found)


def places(folder: Path) -> list[Path]:
    """Where the files of `folder` may lie: there, or anywhere in an archive, the uppermost first.

    The archive is `folder` itself, or `<folder>.zip` where there is no folder.
    """
    packed = Path(f"{folder}.zip")
    place = packed if packed.is_file() and not is_folder(folder) else folder
    archive, name = _split(place)
    if archive is None:
        return [folder]
    folders = {Path(below.rpartition("/")[0]) for below in archive.below(name)}
    folders |= {parent for inside in folders for parent in inside.parents}
    inside = sorted(folders, key=lambda each: (len(each.parts), each))
    return [place / each for each in inside if each.parts[:1] != ("__MACOSX",)]


def folder_or_archived(folder: Path, name: str, *archives: Path) -> Path:
    """`folder`; where it is not there, the folder `name` in the first archive that has it."""
    if not folder.is_dir():
        for archive in filter(Path.is_file, archives):
            if is_folder(archive / name):
                return archive / name
    return folder


class _Archive:
    """An open archive, and a table of its members: the row of each name, COLUMNS for each row."""

    def __init__(self, path: str, *state: int) -> None:
        self.path, self.state = path, state
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (lives as this object)
            with zipfile.ZipFile(self._file) as archive:
                infos = [info for info in archive.infolist() if not info.is_dir()]
        except Exception as error:  # zipfile raises many kinds on damaged files
            raise DatasetError(
                f"{path} is no whole zip archive ({error}): download or copy it again"
            ) from error
        self.rows = {info.filename: number for number, info in enumerate(infos)}
        table = [[getattr(info, column) for column in _COLUMNS] for info in infos]
        self._table = np.array(table, np.int64).reshape(-1, len(_COLUMNS))  # COCO's has 118,287

    def member(self, name: str) -> list[int]:
        if name not in self.rows:
            raise FileNotFoundError(errno.ENOENT, "missing", f"{self.path}/{name}")
        return self._table[self.rows[name]].tolist()  # type: ignore[no-any-return]

    def below(self, folder: str) -> list[str]:
        """Names of the files below a folder, relative to it."""
        start = f"{folder}/" if folder else ""
        return [name[len(start) :] for name in self.rows if name.startswith(start)]

    def read(self, name: str) -> bytes:
        offset, packed, size, method, flags, checksum = self.member(name)
        problem, file = "its archive is damaged there: download or copy that again", self._file
        if flags & 1:
            problem = "it is encrypted: unpack the archive with its password"
        elif method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            problem = f"its compression, number {method}, is not read: pack it anew with zip -0"
        else:
            wanted = _HEADER + len(name.encode()) + _EXTRA + packed
            data = os.pread(file.fileno(), wanted, offset)
            start = _HEADER + sum(struct.unpack_from("<HH", data.ljust(_HEADER), _HEADER - 4))
            if start + packed > wanted:  # much lies behind the name
                data, start = os.pread(file.fileno(), packed, offset + start), 0
            data = data[start : start + packed]
            with suppress(isal_zlib.error):  # type: ignore[arg-type]
                if method == zipfile.ZIP_DEFLATED:
                    data = isal_zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, size + 1)
                if len(data) == size and isal_zlib.crc32(data) == checksum:
                    return data
        raise OSError(errno.EINVAL, problem, f"{self.path}/{name}")


def _split(path: str | Path) -> tuple[_Archive | None, str]:
    """The archive that a path leads through, and the name in it; None where there is none.

    Raises:
        DatasetError: the archive cannot be read, or is of a kind that has no directory.
    """
    text = os.fspath(path)
    for match in _SUFFIX.finditer(text):
        file = text[: match.end()]
        if not os.path.isfile(file):
            continue
        if match[1].lower() != "zip":
            raise DatasetError(
                f"{file} is a tar archive, whose files can only be found by reading all of it: "
                "unpack it (tar -xf), or pack its files with zip -0"
            )
        status = os.stat(file)
        return _open(file, status.st_mtime_ns, status.st_size), text[match.end() + 1 :]
    return None, ""


_open = lru_cache(maxsize=16)(_Archive)

"""Find a dataset's archives by what is in them, and refuse those that are torn or hostile."""

import contextlib
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from panoptic_dl.data.archives.kinds import Kind
from panoptic_dl.data.errors import DatasetError
from panoptic_dl.data.work import Say, size_text

MOST_BYTES = 64 * 10**9  # that an archive may unpack to; the largest official one has 20 GB
UNFINISHED_DOWNLOADS = (".part", ".crdownload", ".download", ".partial", ".aria2", ".tmp")


class HostileArchive(DatasetError):
    """An archive that is not what its authors made."""


@dataclass(frozen=True)
class Archive:
    """An archive of a known kind, with the members that are wanted of it."""

    kind: Kind
    path: Path
    members: tuple[zipfile.ZipInfo, ...]
    others: tuple[str, ...]  # names of the rest, which stay in it


def find_archives(places: Sequence[Path], kinds: Sequence[Kind], say: Say) -> list[Archive]:
    """The archives that lie in the folders `places`, at most one of each kind, in that order.

    Where there are several of a kind, the one with the official name is taken, else the first.

    Raises:
        DatasetError: one of an official name is torn, and there is no sound one of its kind; or an
            archive holds what could write elsewhere.
    """
    candidates: dict[str, list[Archive]] = {kind.name: [] for kind in kinds}
    torn: dict[str, DatasetError] = {}
    for path in _zip_files(places):
        named = next((kind for kind in kinds if kind.has_name(path.name)), None)
        try:
            archive = _look_into(path, kinds, named)
        except HostileArchive:
            raise
        except DatasetError as error:
            if named is None:
                say(f"{path}: left alone, it is no zip file that can be read")
            else:
                torn.setdefault(named.name, error)
            continue
        if archive is not None:
            candidates[archive.kind.name].append(archive)
        elif named is not None:
            say(f"{path}: left alone, there is nothing of {named.name} in it")
    found = []
    for kind in kinds:
        alike = candidates[kind.name]
        if alike:
            first = next((archive for archive in alike if archive.path.name == kind.name), alike[0])
            found.append(first)
            for other in alike:
                if other is not first:
                    say(f"{other.path}: left alone, {first.path} has the same in it")
        elif kind.name in torn:
            raise torn[kind.name]
    return found


def unfinished_downloads(places: Sequence[Path], kinds: Sequence[Kind]) -> list[Path]:
    """Files that look like the official archives before they are complete."""
    return [
        file
        for place in places
        if place.is_dir()
        for file in sorted(place.iterdir())
        if file.name.endswith(UNFINISHED_DOWNLOADS)
        and any(file.name.startswith(kind.name.removesuffix(".zip")) for kind in kinds)
    ]


@contextlib.contextmanager
def errors_of(path: Path, kind: Kind | None, member: str = "") -> Iterator[None]:
    """Turn what reading a zip file can raise into an error that names it and the cure."""
    try:
        yield
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError),
        *(NotImplementedError, RuntimeError, KeyError),  # odd compression; encrypted; changed since
        *(UnicodeDecodeError, struct.error),  # damaged names and headers
    ) as error:
        place = f"{path}, in {member}" if member else str(path)
        size = size_text(path.stat().st_size)
        if kind is not None and kind.size:
            size += f" of {size_text(kind.size)}"
        raise DatasetError(
            f"damaged or incomplete archive: {place}: {error} ({size} are there). "
            + (kind.again if kind is not None else "")
        ) from error


def _zip_files(places: Sequence[Path]) -> list[Path]:
    unique = {place.resolve(): place for place in places if place.is_dir()}.values()
    return [
        file
        for place in unique
        for file in sorted(place.iterdir())
        if file.suffix.lower() == ".zip" and file.is_file() and not file.name.startswith(".")
    ]


def _look_into(path: Path, kinds: Sequence[Kind], named: Kind | None) -> Archive | None:
    """The archive, if it is of one of the kinds; `named` is the one that its name promises.

    Raises:
        DatasetError: it cannot be read; or it is of one of the kinds and hostile.
    """
    with errors_of(path, named), zipfile.ZipFile(path) as file:
        infos = file.infolist()
    for kind in kinds:
        wanted = [info for info in infos if kind.takes.fullmatch(info.filename)]
        if wanted:
            _refuse_hostile(path, infos)
            names = {info.filename for info in wanted}
            others = (i.filename for i in infos if not i.is_dir() and i.filename not in names)
            return Archive(kind, path, tuple(wanted), tuple(others))
    return None


def _refuse_hostile(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise unless every member would stay below the folder it is unpacked to, as a plain file."""

    def refuse(info: zipfile.ZipInfo, why: str) -> None:
        raise HostileArchive(
            f"{path} is refused, nothing of it was unpacked: {info.orig_filename!r} {why}. "
            "This is not the official archive: delete it and download that one"
        )

    seen = set()
    for info in infos:
        name = info.orig_filename
        posix = PurePosixPath(name)
        if posix.is_absolute() or PureWindowsPath(name).anchor or "\\" in name or "\0" in name:
            refuse(info, "is no relative path")
        if ".." in posix.parts or not posix.parts:
            refuse(info, "leads out of its folder")
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            refuse(info, "is a link or a device")
        if info.flag_bits & 1:
            refuse(info, "is encrypted")
        if posix in seen:
            refuse(info, "comes twice")
        seen.add(posix)
    total = sum(info.file_size for info in infos)
    if total > MOST_BYTES:
        raise HostileArchive(
            f"{path} is refused: it would unpack to {size_text(total)}, no official archive to "
            f"more than {size_text(MOST_BYTES)}. Delete it and download that one"
        )

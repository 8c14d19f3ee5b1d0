"""What scripts/prepare_*.py share: their command line and exit codes, and the official archives.

Archives are found by their content; hostile ones are refused. A member is unpacked to a temporary
file, its checksum compared, and then renamed. So a file of the right size counts as done, and a
second run continues an interrupted one; its checksum is not computed again, which would make every
second run as slow as the first.
"""

import argparse
import contextlib
import errno
import os
import re
import shutil
import signal
import stat
import struct
import sys
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import FrameType

from panoptic_dl.core.errors import DatasetError, one_line_errors
from panoptic_dl.core.files import (
    acquire_lock,
    atomic_write,
    local_path,
    near_names,
    release_lock,
    temporary_of,
)
from panoptic_dl.core.parallel import Progress, Say, count_cores, parallel_map, size_text


@dataclass(frozen=True)
class OfficialArchive:
    """An archive as the authors of a dataset offer it.

    Attributes:
        name: of the file.
        size: of the official file in bytes; a number of whole megabytes is an approximate one, 0
            an unknown one.
        wanted: pattern of the members that are unpacked; a file with one such is this archive,
            whatever its name.
        remedy: what to do when it is damaged.
    """

    name: str
    size: int
    wanted: re.Pattern[str]
    remedy: str = "Download it again; `wget -c` and `csDownload --resume` go on with a part"

    def has_name(self, name: str) -> bool:
        """Whether a file is called so, or as browsers call a second download of it."""
        stem, suffix = self.name.rsplit(".", 1)
        pattern = rf"{re.escape(stem)}( ?\(\d+\)|[-_ ]?\d+)?\.{suffix}"
        return re.fullmatch(pattern, name, re.IGNORECASE) is not None


MAX_BYTES = 64 * 10**9  # that an archive may unpack to; the largest official one has 20 GB
ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # an odd compression
    RuntimeError,  # encrypted
    KeyError,  # changed since it was listed
    UnicodeDecodeError,  # damaged names
    struct.error,  # damaged headers
)


@dataclass(frozen=True)
class Archive:
    """A copy of an official archive on disk, with the members that are wanted of it."""

    official: OfficialArchive
    path: Path
    members: tuple[zipfile.ZipInfo, ...]
    num_others: int  # files that stay in it


def find_archives(
    places: Sequence[Path], officials: Sequence[OfficialArchive], say: Say
) -> list[Archive]:
    """Find official archives by their content in the folders `places`, in the order `officials`.

    Of several copies the one with the official name is taken, else the first.

    Raises:
        DatasetError: the only copy of one is torn; or an archive holds what could write elsewhere.
    """
    found: dict[OfficialArchive, Archive] = {}
    torn: dict[OfficialArchive, DatasetError] = {}
    names = [official.name for official in officials]
    for path in sorted(_zip_files(places), key=lambda path: path.name not in names):
        named = next((official for official in officials if official.has_name(path.name)), None)
        try:
            with _zip_errors(path, named), zipfile.ZipFile(path) as file:
                infos = file.infolist()
        except DatasetError as error:
            if named is None:
                say(f"{path}: left alone, it is no zip file that can be read")
            else:
                torn.setdefault(named, error)
            continue
        for official in officials:
            members = [info for info in infos if official.wanted.fullmatch(info.filename)]
            if members:
                break
        else:
            if named is not None:
                say(f"{path}: left alone, there is nothing of {named.name} in it")
            continue
        _refuse_hostile(path, infos)
        if official in found:
            say(f"{path}: left alone, {found[official].path} has the same in it")
            continue
        num_others = sum(not info.is_dir() for info in infos) - len(members)
        found[official] = Archive(official, path, tuple(members), num_others)
    for official in officials:
        if official in torn and official not in found:
            raise torn[official]
    return [found[official] for official in officials if official in found]


@contextlib.contextmanager
def _zip_errors(path: Path, official: OfficialArchive | None, member: str = "") -> Iterator[None]:
    """Turn what reading a zip file can raise into an error that names it and the remedy."""
    try:
        yield
    except ZIP_ERRORS as error:
        place = f"{path}, in {member}" if member else str(path)
        size = size_text(path.stat().st_size)
        if official is not None and official.size:
            size += f" of {size_text(official.size)}"
        raise DatasetError(
            f"damaged or incomplete archive: {place}: {error} ({size} are there). "
            + (official.remedy if official is not None else "")
        ) from error


def _zip_files(places: Sequence[Path]) -> list[Path]:
    unique = {place.resolve(): place for place in places if place.is_dir()}.values()
    return [
        file
        for place in unique
        for file in sorted(place.iterdir())
        if file.suffix.lower() == ".zip" and file.is_file() and not file.name.startswith(".")
    ]


def _refuse_hostile(path: Path, infos: Sequence[zipfile.ZipInfo]) -> None:
    """Raise unless every member would stay below the folder it is unpacked to, as a plain file."""
    seen = set()
    for info in infos:
        name, kind = info.orig_filename, stat.S_IFMT(info.external_attr >> 16)
        posix = PurePosixPath(name)
        problem = ""
        if posix.is_absolute() or PureWindowsPath(name).anchor or "\\" in name or "\0" in name:
            problem = "is no relative path"
        elif ".." in posix.parts or not posix.parts:
            problem = "leads out of its folder"
        elif kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            problem = "is a link or a device"
        elif info.flag_bits & 1:
            problem = "is encrypted"
        elif posix in seen:
            problem = "comes twice"
        if problem:
            raise DatasetError(
                f"{path} is refused, nothing of it was unpacked: {name!r} {problem}. "
                "This is not the official archive: delete it and download that one"
            )
        seen.add(posix)
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES:
        raise DatasetError(
            f"{path} is refused: it would unpack to {size_text(total)}, no official archive to "
            f"more than {size_text(MAX_BYTES)}. Delete it and download that one"
        )


BLOCK = 1 << 20  # bytes
PNG_END = b"IEND\xaeB`\x82"  # the last chunk's name and checksum
JOB_MEMBERS = 64
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


def unpack(archives: Sequence[Archive], base: Path, *, num_workers: int, say: Say) -> None:
    """Unpack the wanted members below `base`, where they are not there yet.

    Archives stay where they are.

    Raises:
        DatasetError: the disk has too little room, which is found before anything is written; an
            archive is damaged; a file cannot be written.
    """
    sizes: dict[Path, dict[str, int]] = {}  # of files, each folder listed once
    missing: dict[Path, list[zipfile.ZipInfo]] = {}
    needed: Counter[Path] = Counter()  # bytes by folder
    for archive in archives:
        missing[archive.path] = []
        for info in archive.members:
            path = base / info.filename
            if path.parent not in sizes:
                sizes[path.parent] = _clean_and_list(path.parent)
            if sizes[path.parent].get(path.name) != info.file_size:
                missing[archive.path].append(info)
                needed[path.parent] += -(-info.file_size // 4096) * 4096
    _check_room(needed)
    for folder in needed:
        folder.mkdir(parents=True, exist_ok=True)
    for archive in archives:
        _unpack_one(archive, missing[archive.path], base, num_workers, say)


def unpack_tar(official: OfficialArchive, places: Sequence[Path], base: Path, *, say: Say) -> None:
    """Unpack the wanted members of a tar file, if it lies in one of the folders `places`.

    It is known by its name: listing a tar file means to read all of it. Nothing but plain files
    whose whole names are wanted is unpacked.

    Raises:
        DatasetError: as `unpack`.
    """
    files = (f for place in places if place.is_dir() for f in sorted(place.iterdir()))
    path = next((file for file in files if official.has_name(file.name)), None)
    if path is None:
        return
    try:
        with tarfile.open(path) as file:
            names = {member: member.name.removeprefix("./") for member in file if member.isfile()}
            wanted = [m for m, name in names.items() if official.wanted.fullmatch(name)]
            sizes: dict[Path, dict[str, int]] = {}
            for folder in {(base / names[member]).parent for member in wanted}:
                sizes[folder] = _clean_and_list(folder)
            targets = {member: base / names[member] for member in wanted}
            missing = [m for m, to in targets.items() if sizes[to.parent].get(to.name) != m.size]
            needed: Counter[Path] = Counter()
            for member in missing:
                needed[targets[member].parent] += -(-member.size // 4096) * 4096
            _check_room(needed)
            for folder in needed:
                folder.mkdir(parents=True, exist_ok=True)
            with Progress(path.name, len(missing), say=say) as progress:
                for member in missing:
                    source = file.extractfile(member)
                    assert source is not None  # it is a plain file
                    with atomic_write(targets[member], sync=False) as temporary:
                        temporary.write_bytes(source.read())
                    progress.add(1)
    except (tarfile.TarError, EOFError) as error:
        size = size_text(path.stat().st_size)
        raise DatasetError(
            f"damaged or incomplete archive: {path}: {error} ({size} of "
            f"{size_text(official.size)} are there). {official.remedy}"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot unpack {path}: {error.strerror or error}") from error
    if not wanted:
        say(f"{path}: left alone, there is nothing of {official.name} in it")
        return
    done = f"{len(missing)} files unpacked" if missing else f"unpacked already, {len(wanted)} files"
    say(f"{path.name}: {done}; it can be deleted")


def _clean_and_list(folder: Path) -> dict[str, int]:
    """Sizes of the files in a folder; temporary ones, which killed processes left, are removed."""
    sizes = {}
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if temporary_of(entry.name) is not None:
                    os.unlink(entry)
                elif entry.is_file():
                    sizes[entry.name] = entry.stat().st_size
    return sizes


def _check_room(needed: Mapping[Path, int]) -> None:
    """Raise `DatasetError` unless the disks of folders, which may not exist yet, have the bytes."""
    disks: dict[int, tuple[Path, int]] = {}
    for folder, size in needed.items():
        place = next(place for place in (folder, *folder.parents) if place.exists())
        device = place.stat().st_dev
        disks[device] = place, disks.get(device, (place, 0))[1] + size
    for place, need in disks.values():
        free = shutil.disk_usage(place).free
        if need > free:
            raise DatasetError(
                f"not enough room: {size_text(need)} are to be unpacked and {size_text(free)} are "
                f"free on the disk of {place}. Nothing was written. Free {size_text(need - free)} "
                f"(see `df -h {place}`), or put the dataset's folder on another disk, and run this "
                "again"
            )


def _unpack_one(
    archive: Archive, infos: list[zipfile.ZipInfo], base: Path, num_workers: int, say: Say
) -> None:
    name = archive.path.name
    if name != archive.official.name:
        say(f"{name}: is {archive.official.name}, by what is in it")
    if not infos:
        say(f"{name}: unpacked already, {len(archive.members)} files; it can be deleted")
        return
    names = [info.filename for info in sorted(infos, key=lambda info: info.header_offset)]
    jobs = [
        (archive.path, archive.official, base, names[start : start + JOB_MEMBERS])
        for start in range(0, len(names), JOB_MEMBERS)
    ]
    size = sum(info.file_size for info in infos)
    results = parallel_map(_unpack_members, jobs, num_workers)
    try:
        with Progress(name, size, unit="B", say=say) as progress, closing(results):
            for done in results:
                progress.add(done)
    finally:
        _opened.clear()
    others = f", {archive.num_others} others kept in it" if archive.num_others else ""
    say(f"{name}: {len(infos)} files unpacked{others}; it can be deleted")


_opened: dict[Path, zipfile.ZipFile] = {}  # in this process: reading 118,287 names takes a second


def _unpack_members(path: Path, official: OfficialArchive, base: Path, names: list[str]) -> int:
    """A worker's job; returns the bytes written."""
    with _zip_errors(path, official):
        if path not in _opened:
            _opened[path] = zipfile.ZipFile(path)
    return sum(_unpack_member(_opened[path], path, official, name, base / name) for name in names)


def _unpack_member(
    file: zipfile.ZipFile, path: Path, official: OfficialArchive, name: str, target: Path
) -> int:
    written = 0
    try:
        with atomic_write(target, sync=False) as temporary, _zip_errors(path, official, name):
            info = file.getinfo(name)
            # Never more than `file_size` bytes come out; the last read compares the checksum.
            with file.open(info) as source, temporary.open("wb") as sink:
                while block := source.read(BLOCK):
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


MAX_WORKERS = 16
UNFINISHED_DOWNLOADS = (".part", ".crdownload", ".download", ".partial", ".aria2", ".tmp")
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@one_line_errors()
def run_command(
    description: str,
    prepare: Callable[..., None],
    check: Callable[..., None],
    folder: str,
    datasets: Sequence[str] = (),
    packed: bool = False,
) -> None:
    """Parse the command line, and prepare or check a dataset.

    Exit codes: 0 ready, 1 something is missing or wrong (one message), 128 + a signal that stopped
    it: 130 for Ctrl-C.

    Args:
        description: for --help.
        prepare: is called with the folder and `num_workers`, and with `packed=True` if asked to.
        check: is called with the folder.
        folder: name of the dataset's own folder.
        datasets: names, one of which is then the first argument, of the command and of both.
        packed: whether images can be left in their archives.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    if datasets:
        parser.add_argument("dataset", choices=datasets)
    parser.add_argument(
        "root", metavar="ROOT", help=f"folder that holds {folder}/ or the archives, or {folder}/"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=min(count_cores(), MAX_WORKERS),
        metavar="N",
        help="processes that share the work (default: usable cores, %(default)s)",
    )
    parser.add_argument("--check", action="store_true", help="change nothing: count what is there")
    if packed:
        parser.add_argument(
            "--packed",
            action="store_const",
            const={"packed": True},
            default={},
            help="leave images in their archives, in which training and evaluation read them",
        )
    arguments = parser.parse_args()
    if arguments.workers < 1:
        parser.error("--workers must be at least 1")
    for number in STOPPING:
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupt)
    try:
        chosen = [arguments.dataset] if datasets else []
        if arguments.check:
            check(*chosen, arguments.root)
        else:
            more = getattr(arguments, "packed", {})
            prepare(*chosen, arguments.root, num_workers=arguments.workers, **more)
    except KeyboardInterrupt as stop:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(128 + (stop.args[0] if stop.args else signal.SIGINT))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def dataset_folder(root: str | Path, name: str) -> Path:
    """The dataset's own folder: `root` if it is called `name`, else `root/name`.

    Raises:
        DatasetError: there is no folder `root`.
    """
    path = Path(os.path.abspath(local_path(root, "ROOT")))
    base = path if path.name == name and not (path / name).is_dir() else path / name
    if not path.is_dir():
        near = near_names(path.parent, path.name)
        raise DatasetError(
            f"no such folder: {path}{near}. Give the folder that holds {name}/, or the archives"
        )
    return base


@contextlib.contextmanager
def lock_folder(base: Path) -> Iterator[None]:
    """Make the folder if need be, and keep other processes that do the same out of it.

    Raises:
        DatasetError: another one is at work, or the folder cannot be made.
    """
    try:
        base.mkdir(exist_ok=True)
        lock = acquire_lock(base)
    except BlockingIOError as error:
        raise DatasetError(
            f"another process prepares {base} just now: wait for it, or end it"
        ) from error
    except OSError as error:
        raise DatasetError(f"cannot make the folder {base}: {error.strerror}") from error
    try:
        yield
    finally:
        release_lock(lock)


def is_complete_png(file: Path) -> bool:
    """Whether a file ends as PNGs do; a torn one, or none at all, does not."""
    try:
        with file.open("rb") as opened:
            opened.seek(-len(PNG_END), os.SEEK_END)
            return opened.read() == PNG_END
    except OSError:  # not there, or shorter than that
        return False


def missing_folder(
    title: str,
    folder: Path,
    officials: Sequence[OfficialArchive],
    how: str,
    places: tuple[Path, Path] | None = None,
) -> DatasetError:
    """The error for a missing folder: what to download, and which downloads are unfinished.

    Args:
        places: where archives are looked for; by default the two folders above.
    """
    places = places or (folder.parent, folder.parent.parent)
    width = max(len(archive.name) for archive in officials)
    table = "\n".join(f"  {a.name:<{width}}  {_official_size(a.size)}" for a in officials)
    text = (
        f"{title}: folder missing: {folder}\n"
        f"Download these archives into {places[0]} or {places[1]}:\n\n{table}\n\n"
        f"{how}\nThen run the same command again: it unpacks them."
    )
    stems = tuple(archive.name.rpartition(".")[0] for archive in officials)
    for place in places:
        for file in sorted(place.iterdir()) if place.is_dir() else ():
            if file.name.startswith(stems) and file.name.endswith(UNFINISHED_DOWNLOADS):
                text += f"\n(A download that is not finished: {file})"
    return DatasetError(text)


def _official_size(size: int) -> str:
    if size % 10**6:
        return f"{size:>14,} bytes ({size_text(size)})"
    return f"about {size_text(size)}" if size else "of unpublished size"


def describe(count: int, official: int) -> str:
    """What it means that a split has so many images."""
    if count == official:
        return f"complete, {count} images"
    if count == 0:
        return "not there, left out"
    return f"{count} of the official {official} images: good for trials, not for published metrics"

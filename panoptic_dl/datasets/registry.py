"""Detectron2's catalogs, with entries that can be registered again for other files.

Look at a dataset's folder and say precisely what is missing.

Complete folders are listed once and compared as sets: `stat` on each of 118,287 files takes
minutes on network storage.
"""

import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import read_json

Record = dict[str, Any]  # one image, in Detectron2's dataset format

_seen: dict[str, tuple[Any, ...]] = {}  # name -> the state of the files that it was registered for


class Records:
    """The records of a dataset, read now; the first call hands them over, later ones read again.

    Registering needs them for its checks and the loader needs them a moment later. Reading COCO's
    annotations takes many seconds, and keeping them forever a gigabyte.
    """

    def __init__(self, load: Callable[[], list[Record]]) -> None:
        self._load = load
        self._fresh: list[Record] | None = load()

    def __call__(self) -> list[Record]:
        records, self._fresh = self._fresh, None
        return self._load() if records is None else records


def register_once(
    name: str,
    *,
    sources: Iterable[Path],
    load: Callable[[], list[Record]],
    metadata: Callable[[], dict[str, Any]],
) -> str:
    """Register the dataset `name` unless it is registered for these very files; return `name`.

    `sources` are the folders and files that the dataset consists of: when one of them changes (a
    folder changes with the files that come and go), or another root names others, `load` is called
    again and the new entry replaces the old one, be it ours or one that Detectron2 registers when
    it is imported.
    Errors of `load` pass through; the catalogs are then as they were.
    """
    state = tuple(_state_of(source) for source in sources)
    if _seen.get(name) == state and name in DatasetCatalog:
        return name
    records = Records(load)
    _seen.pop(name, None)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, records)
    MetadataCatalog.get(name).set(**metadata())
    _seen[name] = state
    return name


def _state_of(source: Path) -> tuple[str, int, int]:
    try:
        status = source.stat()
    except OSError:
        return str(source), 0, 0
    return str(source), status.st_mtime_ns, status.st_size


@dataclass(frozen=True)
class Layout:
    """The folder of one dataset, and how its errors speak of it.

    Attributes:
        title: name of the dataset for people.
        root: folder that holds the folder of the dataset, as given (`DETECTRON2_DATASETS`).
        folder: name of the dataset's own folder in it.
    """

    title: str
    root: str
    folder: str

    @property
    def base(self) -> Path:
        """Absolute path of the dataset's folder."""
        return Path(os.path.abspath(os.path.expanduser(self.root)), self.folder)

    def error(self, problem: str, remedy: str) -> DatasetError:
        """What is wrong, where this was looked for, and what to do."""
        return DatasetError(
            f"{self.title}: {problem}\n"
            f"  looked in: {self.base}\n"
            f"  which is:  {self.folder}/ in dataset.root={self.root!r} (by default the folder "
            "that the environment variable DETECTRON2_DATASETS names, else ./datasets)\n"
            f"  remedy:    {remedy}"
        )

    def require_folder(self, folder: Path, remedy: str) -> None:
        """Raise `DatasetError` unless `folder` exists."""
        if not folder.is_dir():
            raise self.error(f"folder missing: {folder}", remedy)

    def require_file(self, file: Path, remedy: str) -> None:
        """Raise `DatasetError` unless `file` exists."""
        if not file.is_file():
            raise self.error(f"file missing: {file}", remedy)

    def require_files(
        self, expected: Collection[str], found: Collection[str], folder: Path, remedy: str
    ) -> None:
        """Raise `DatasetError` naming the first of the `expected` names that is not `found`."""
        missing = sorted(set(expected) - set(found))
        if missing:
            raise self.error(
                f"file missing: {folder / missing[0]} "
                f"({len(missing)} of {len(expected)} such files are missing)",
                remedy,
            )

    def read_json(self, file: Path, remedy: str) -> Any:
        """Parse a JSON file; `DatasetError` when it is missing or torn."""
        self.require_file(file, remedy)
        try:
            return read_json(file)
        except ValueError as error:
            raise self.error(f"not a readable JSON file: {file} ({error})", remedy) from error


def list_files(folder: Path, suffix: str) -> set[str]:
    """Names of the files in `folder` that end with `suffix`."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.endswith(suffix)}


def list_city_files(folder: Path, suffixes: Iterable[str]) -> dict[str, set[str]]:
    """For each suffix, the files `<city>/<name without the suffix>` two levels below `folder`."""
    suffixes = tuple(suffixes)
    found: dict[str, set[str]] = {suffix: set() for suffix in suffixes}
    for city in sorted(folder.iterdir()):
        if not city.is_dir():
            continue
        for name in os.listdir(city):
            for suffix in suffixes:
                if name.endswith(suffix):
                    found[suffix].add(f"{city.name}/{name.removesuffix(suffix)}")
    return found

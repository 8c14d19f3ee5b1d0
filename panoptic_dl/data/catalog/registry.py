"""Detectron2's catalogs, with entries that can be registered again for other files."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

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

"""Detectron2's catalogs and the folders of datasets.

How to add one: docs/explanation/architecture.md.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from panoptic_dl.core.archives import file_state, is_folder, list_folder
from panoptic_dl.core.classes import require_no_class
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import local_path, near_names, read_json
from panoptic_dl.core.images import IGNORE_LABEL, LABEL_DIVISOR
from panoptic_dl.datasets.index import Records, indexed

logger = logging.getLogger(__name__)

Record = dict[str, Any]  # one image, in Detectron2's dataset format

NO_TRUTH = {"has_truth": False, "evaluator_type": ""}
"""Metadata of a split whose images are predicted for a server, and not measured."""

_registered: dict[str, tuple[Any, ...]] = {}  # the state of the files at that time, by name


def register_once(
    name: str,
    *,
    sources: Iterable[Path],
    found: Any = None,
    load: Callable[[], list[Record]],
    metadata: Callable[[], dict[str, Any]],
    label_divisor: int = LABEL_DIVISOR,
    ignore_label: int = IGNORE_LABEL,
) -> str:
    """Register the dataset `name` unless it is registered for these very files; return `name`.

    `label_divisor` and `ignore_label`, numbers of the config, become entries of the metadata, where
    all that evaluates, draws or writes predictions looks them up.

    `sources` are the folders and files that the dataset consists of: when one of them changes (a
    folder changes with the files that come and go), or another root names others, `load` is called
    again and the new entry replaces the old one, be it ours or one that Detectron2 registers when
    it is imported.
    Errors of `load` pass through; the catalogs are then as they were. Of a large dataset it is
    called once a machine (see `indexed`): what else it finds out, it writes into `found`, whose
    "warnings" are logged each time.

    Raises:
        DatasetError: `ignore_label` is a class.
    """
    numbers = {"label_divisor": label_divisor, "ignore_label": ignore_label}
    sources = list(sources)
    state = *map(file_state, sources), *numbers.values()
    if _registered.get(name) == state and name in DatasetCatalog:
        return name
    # The loader needs the records a moment after they were checked here. Keeping them forever may
    # take a gigabyte, unless they lie in an index: they are handed over once.
    found = {} if found is None else found
    loaded = [indexed(name, sources, load, found)]
    for warning in found.get("warnings", ()):
        logger.warning(warning)
    is_shared = isinstance(loaded[0], Records)
    entries = metadata() | numbers | {"num_images": len(loaded[0])}
    require_no_class(ignore_label, len(entries["stuff_classes"]))
    _registered.pop(name, None)
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(
        name, lambda: loaded[0] if is_shared else loaded.pop() if loaded else load()
    )
    MetadataCatalog.get(name).set(**entries)
    _registered[name] = state
    return name


@dataclass(frozen=True)
class Layout:
    """The folder of one dataset, and errors about what is in it.

    Complete folders are listed once and compared as sets: `stat` on each of 118,287 files takes
    minutes on network storage.

    Attributes:
        title: name of the dataset for people.
        root: `dataset.root` as given.
        folder: name of the dataset's own folder in it; "": the root itself.
    """

    title: str
    root: str
    folder: str = ""

    @property
    def base(self) -> Path:
        """Absolute path of the dataset's folder."""
        return Path(os.path.abspath(local_path(self.root, "dataset.root")), self.folder)

    def error(self, problem: str, remedy: str) -> DatasetError:
        """What is wrong, where this was looked for, and what to do; or which dataset it is."""
        from panoptic_dl.datasets.importing import other_dataset  # which imports this module

        other = other_dataset(self.title, local_path(self.root, "dataset.root"))
        if other and not (self.folder and self.base.is_dir()):
            return other
        where = f"{self.base} (dataset.root={self.root})"
        if self.folder:
            where = (
                f"{self.base}\n  which is:  {self.folder}/ in dataset.root={self.root!r} "
                "(by default the folder that the environment variable DETECTRON2_DATASETS names, "
                "else ./datasets)"
            )
        return DatasetError(f"{self.title}: {problem}\n  looked in: {where}\n  remedy:    {remedy}")

    def require_folder(self, folder: Path, remedy: str) -> None:
        """Raise `DatasetError` unless `folder` exists."""
        if not is_folder(folder):
            near = near_names(folder.parent, folder.name)  # not images/val for missing labels/val
            raise self.error(f"folder missing: {folder}{near}", remedy)

    def require_file(self, file: Path, remedy: str) -> None:
        """Raise `DatasetError` unless `file` exists."""
        if not file.is_file():
            near = near_names(self.base, os.path.relpath(file, self.base), deep=True)
            raise self.error(f"file missing: {file}{near}", remedy)

    def require_files(
        self, expected: Collection[str], found: Collection[str], folder: Path, remedy: str
    ) -> None:
        """Raise `DatasetError` naming the first of the `expected` names that is not `found`."""
        missing = sorted(set(expected) - set(found))
        if missing:
            raise self.error(
                f"file missing: {folder / missing[0]} "
                f"({len(missing)} of {len(expected)} such files are missing)"
                f"{near_names(folder, missing[0], deep=True)}",
                remedy,
            )

    def read_json(self, file: Path, remedy: str) -> dict[str, Any]:
        """Parse a JSON file that holds an object; `DatasetError` when it is missing or torn."""
        self.require_file(file, remedy)
        try:
            content = read_json(file)
            if not isinstance(content, dict):
                raise ValueError("it holds no object")
        except ValueError as error:
            raise self.error(f"not a readable JSON file: {file} ({error})", remedy) from error
        return content


def list_files(folder: Path, suffix: str) -> set[str]:
    """Names of the files in `folder` that end with `suffix`, without hidden ones."""
    return {
        name for name in list_folder(folder) if name.endswith(suffix) and not name.startswith(".")
    }

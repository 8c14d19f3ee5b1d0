"""A split of own data: where its files lie, and whether they fit together."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from panoptic_dl.classes import Classes
from panoptic_dl.data.catalog.categories import Categories, read_annotations, read_categories
from panoptic_dl.data.catalog.layout import Layout
from panoptic_dl.data.catalog.own_records import (
    files_there,
    label_names,
    listed_images,
    records_of,
)
from panoptic_dl.data.catalog.registry import Record
from panoptic_dl.data.errors import DatasetError

GUIDE = "docs/custom_dataset.md says what lies where"

Images = Mapping[Any, dict[str, Any]]  # entries of the JSON file by the id of the image


@dataclass(frozen=True)
class Format:
    """Where the files of a split lie below `dataset.root`, when nobody says otherwise.

    Attributes:
        name: the option of the group `dataset`.
        annotations: JSON files; the first that is there is taken. {split} stands for the split.
        images, labels: folders; the first that holds what the JSON file lists first.
        find_images: from such a folder, the images listed and the JSON file (for messages) to the
            image files by id, relative to the folder. They need not be there.
    """

    name: str
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    labels: tuple[str, ...]
    find_images: Callable[[Path, Images, Path], dict[Any, str]]


class OwnLayout(Layout):
    """A dataset's own folder, which `dataset.root` names itself."""

    def error(self, problem: str, remedy: str) -> DatasetError:
        """What is wrong, where this was looked for, and what to do."""
        return DatasetError(
            f"dataset={self.title}: {problem}\n"
            f"  looked in: {self.base} (dataset.root={self.root})\n"
            f"  remedy:    {remedy}"
        )


class OwnSplit:
    """The files of one split.

    Args:
        form: its format.
        root: the dataset's folder.
        part: "train" or "test", the use that the config makes of it.
        split: name of the split, as in the names of files.
        json, images, labels: file of annotations, folder of images, folder of PNGs, relative to
            `root` or absolute; None: where the format has them.

    Raises:
        DatasetError: there is no root.
    """

    def __init__(
        self,
        form: Format,
        *,
        root: str | None,
        part: str,
        split: str,
        json: str | None = None,
        images: str | None = None,
        labels: str | None = None,
    ) -> None:
        if root is None:
            raise DatasetError(
                f"dataset={form.name} needs dataset.root=FOLDER, the folder of your data; {GUIDE}"
            )
        self.form, self.part, self.split = form, part, split
        self.layout = OwnLayout(form.name, str(root), "")
        given = {"json": json, "images": images, "labels": labels}
        usual = {"json": form.annotations, "images": form.images, "labels": form.labels}
        self.choices: dict[str, list[Path]] = {
            kind: [
                self.layout.base / Path(name).expanduser()
                for name in ([place] if place else [n.format(split=split) for n in usual[kind]])
            ]
            for kind, place in given.items()
        }

    @property
    def file(self) -> Path:
        """The JSON file."""
        choices = self.choices["json"]
        return next((file for file in choices if file.is_file()), choices[0])

    def sources(self) -> list[Path]:
        """All that the split may consist of."""
        return [self.file, *self.choices["images"], *self.choices["labels"]]

    def remedy(self, kind: str) -> str:
        """How to say where the `kind` of files lies: "json", "images" or "labels"."""
        what = "FILE" if kind == "json" else "FOLDER"
        return (
            f"put it there, or say where it is: dataset.{self.part}_{kind}={what} (relative to "
            f"dataset.root);\n             dataset.{self.part}_split=NAME takes another split than "
            f"{self.split}; {GUIDE}"
        )

    def require_annotations(self) -> None:
        """Raise `DatasetError` unless the JSON file is there; say where it was looked for."""
        self.layout.require_folder(self.layout.base, "dataset.root=FOLDER that holds your data")
        if not self.file.is_file():
            others = "".join(f", nor {file.name}" for file in self.choices["json"][1:])
            raise self.layout.error(f"file missing: {self.file}{others}", self.remedy("json"))

    def categories(self, classes: Classes) -> Categories:
        """The categories of the JSON file.

        Raises:
            DatasetError: they are not `classes`, or the file cannot be read.
        """
        self.require_annotations()
        found = read_categories([self.file])
        differs = found.classes.difference(classes)
        if differs:
            raise self.layout.error(
                f"{self.file} has other categories than dataset.classes: {differs}",
                "list the same categories in the JSON files of training and test, and of the model",
            )
        return replace(found, classes=classes)  # with the colours of the dataset

    def load(self, classes: Classes) -> list[Record]:
        """Check the split and return Detectron2's records.

        Raises:
            DatasetError: something is missing or does not fit together; names file and remedy.
        """
        categories = self.categories(classes)
        content = read_annotations(self.file)
        listed, labels = listed_images(content, self.file), label_names(content, self.file)
        find = self.form.find_images
        self.image_folder, images = self._find("images", lambda f: find(f, listed, self.file))
        self.label_folder, labels = self._find("labels", lambda f: labels)
        return records_of(
            content,
            self.file,
            categories.contiguous,
            len(categories.classes.thing_ids),
            {number: str(self.image_folder / name) for number, name in images.items()},
            {number: str(self.label_folder / name) for number, name in labels.items()},
        )

    def metadata(self, classes: Classes, *, semantic: bool) -> dict[str, Any]:
        """For Detectron2's catalog; call `load` before."""
        return self.categories(classes).metadata(semantic=semantic) | {
            "image_root": str(self.image_folder),
            "panoptic_root": str(self.label_folder),
            "panoptic_json": str(self.file),
            "evaluator_type": "sem_seg" if semantic else "coco_panoptic_seg",
        }

    def _find(
        self, kind: str, names_in: Callable[[Path], dict[Any, str]]
    ) -> tuple[Path, dict[Any, str]]:
        """The folder that holds the first file, and the names of all files in it."""
        tried = self.choices[kind]
        for folder in tried:
            names = names_in(folder)
            first = next(iter(names.values()))
            if files_there(folder, [first]):
                wanted = set(names.values())
                found = files_there(folder, wanted)
                self.layout.require_files(wanted, found, folder, self.remedy(kind))
                return folder, names
        if len(tried) == 1:
            self.layout.require_folder(tried[0], self.remedy(kind))
        raise self.layout.error(
            f"file missing: {first}, which {self.file} lists; looked for it in\n             "
            + "\n             ".join(map(str, tried)),
            self.remedy(kind),
        )

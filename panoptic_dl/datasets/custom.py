"""Own data by the name of its format: its classes and its splits come from its files.

A split of own data: where its files lie, and whether they fit together.

From panoptic JSON files of anybody to Detectron2's records, every entry looked at.

Own data in Cityscapes' folders, with any categories.

    <root>/
      gtFine/cityscapes_panoptic_<split>.json          categories, images, segments
      gtFine/cityscapes_panoptic_<split>/<file_name>   PNGs, as in COCO's panoptic format
      leftImg8bit/<split>/<city>/<image id>_leftImg8bit.png     or .jpg, .tif, ...

That is what the official `createPanopticImgs` leaves. Nothing else of Cityscapes is needed: neither
polygons nor PNGs of labels, instances or train ids.

Own data in COCO's panoptic format, with any categories.

    <root>/
      annotations/panoptic_<split>.json   categories, images, segments; or panoptic_<split>2017.json
      <split>/<file_name>                 images of any format that Pillow reads; or images/<split>/
      panoptic_<split>/<file_name>        PNGs: a segment's id = R + 256 G + 256^2 B, 0 where void

File names are those of the JSON file, and may have folders in them.
"""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from panoptic_dl.core.classes import Classes, load_classes
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.categories import GUIDE, Categories, read_annotations, read_categories
from panoptic_dl.datasets.registry import Layout, Record, register_once

logger = logging.getLogger(__name__)

NUM_IDS = 256**3  # of segments: R + 256 G + 256^2 B; 0 is void


def listed_images(content: dict[str, Any], file: Path) -> dict[Any, dict[str, Any]]:
    """The images that have an annotation, by id.

    Raises:
        DatasetError: ids are missing, come twice or are not of one kind, or an annotation is of an
            image that is not listed.
    """
    images: dict[Any, dict[str, Any]] = {}
    for image in content["images"]:
        number = image.get("id")
        if type(number) not in (int, str):
            raise DatasetError(
                f'{file}: image {str(image)[:80]} needs an "id", a number or text; {GUIDE}'
            )
        if number in images:
            raise DatasetError(f"{file} lists image {number!r} twice; give each image its own id")
        images[number] = image
    if len({type(number) for number in images}) > 1:
        raise DatasetError(f"{file}: some image ids are numbers and some texts; write one kind")
    labelled: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        number = annotation.get("image_id")
        if "segments_info" not in annotation:
            raise DatasetError(
                f"{file}: an annotation of image {number!r} has no segments_info: this is no "
                "panoptic file. One of instances or detections is converted as in "
                "docs/custom_dataset.md"
            )
        if type(number) not in (int, str) or number not in images:
            raise DatasetError(
                f'{file}: an annotation is of image {number!r}, which is not among its "images"; '
                "list that image or remove the annotation"
            )
        if number in labelled:
            raise DatasetError(
                f"{file} has two annotations of image {number!r}; put all segments of an image in "
                "one"
            )
        labelled[number] = images[number]
    if len(labelled) < len(images):
        odd = next(number for number in images if number not in labelled)
        logger.warning(
            "%s: %d of its %d images have no annotation and are left out, such as %r",
            file,
            len(images) - len(labelled),
            len(images),
            odd,
        )
    return labelled


def label_names(content: dict[str, Any], file: Path) -> dict[Any, str]:
    """File name of the PNG of each annotated image.

    Raises:
        DatasetError: one is missing, or leads out of the folder.
    """
    where = f'{file}: "file_name" of the annotation of image'
    return {
        annotation["image_id"]: inside(
            annotation.get("file_name"), f"{where} {annotation['image_id']!r}"
        )
        for annotation in content["annotations"]
    }


def records_of(
    content: dict[str, Any],
    file: Path,
    contiguous: dict[int, int],
    num_things: int,
    images: dict[Any, str],
    labels: dict[Any, str],
) -> list[Record]:
    """Detectron2's records, in the order of the annotations.

    Args:
        content: of the panoptic JSON file.
        file: its name, for messages.
        contiguous: contiguous id of each category id, things first.
        num_things: how many are things.
        images, labels: path of the picture and of the PNG of each image id.

    Raises:
        DatasetError: a segment has an unknown category, or an id that cannot be or comes twice.
    """
    listed = {image["id"]: image for image in content["images"]}
    records: list[Record] = []
    for annotation in content["annotations"]:
        number = annotation["image_id"]
        record: Record = {
            "file_name": images[number],
            "image_id": number,
            "pan_seg_file_name": labels[number],
            "segments_info": _segments(annotation, file, contiguous, num_things),
        }
        # Upright and lying images are told apart without opening them, where sizes are listed.
        size = {side: listed[number].get(side) for side in ("height", "width")}
        if all(type(value) is int and value > 0 for value in size.values()):
            record |= size
        records.append(record)
    return records


def _segments(
    annotation: dict[str, Any], file: Path, contiguous: dict[int, int], num_things: int
) -> list[dict[str, Any]]:
    segments: dict[int, dict[str, Any]] = {}
    if not isinstance(annotation["segments_info"], list):
        raise DatasetError(
            f"{file}: segments_info of image {annotation['image_id']!r} is no list; {GUIDE}"
        )
    for segment in annotation["segments_info"]:
        number, category = segment.get("id"), segment.get("category_id")
        where = f"{file}: segment {number!r} of {annotation['file_name']}"
        if type(number) is not int or not 0 < number < NUM_IDS:
            raise DatasetError(
                f"{where}: ids are whole numbers from 1 to {NUM_IDS - 1}, R + 256 G + 65536 B of "
                "the PNG; 0 is void"
            )
        if number in segments:
            raise DatasetError(f"{where} is listed twice: give each segment of an image its own id")
        if type(category) is not int or category not in contiguous:
            raise DatasetError(
                f'{where} has the category_id {category!r}, which is not among the "categories" '
                "of that file; list it there, or correct the segment"
            )
        crowd = segment.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DatasetError(f'{where}: "iscrowd" is {crowd!r}; write 0 or 1, or leave it out')
        checked = {
            "id": number,
            "category_id": contiguous[category],
            "iscrowd": int(crowd),
            "isthing": contiguous[category] < num_things,
        }
        segments[number] = checked | ({"area": segment["area"]} if "area" in segment else {})
    return list(segments.values())


def inside(name: Any, where: str) -> str:
    """A relative file name, in its shortest form.

    Raises:
        DatasetError: it is none, or leads out of the folder that it is relative to: a file of
            annotations that was downloaded must not choose what is read.
    """
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{where} is {name!r}; write the name of the file; {GUIDE}")
    shortest = os.path.normpath(name)
    if os.path.isabs(name) or PurePath(shortest).parts[:1] == ("..",):
        raise DatasetError(
            f"{where} is {name!r}; write it relative to the folder of these files, and inside it"
        )
    return shortest


def files_there(folder: Path, names: Iterable[str]) -> set[str]:
    """Which of `names`, relative to `folder`, are files; each folder is listed once."""
    found: set[str] = set()
    listings: dict[str, Collection[str]] = {}
    for name in names:
        parent, _, leaf = name.rpartition("/")
        if parent not in listings:
            place = folder / parent
            listings[parent] = set(os.listdir(place)) if place.is_dir() else ()
        if leaf in listings[parent]:
            found.add(name)
    return found


LAYOUT_HELP = "docs/custom_dataset.md says what lies where"

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
                f"dataset={form.name} needs dataset.root=FOLDER, the folder of your data; "
                f"{LAYOUT_HELP}"
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
            f"{self.split}; {LAYOUT_HELP}"
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


SUFFIX = "_leftImg8bit"


def _by_id(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    """`<city>/<image id>_leftImg8bit.<any>`; "file_name" in the official files names no such file.

    Raises:
        DatasetError: an image has several such files.
    """
    found: dict[str, str] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in names:
            stem = os.path.splitext(name)[0]
            if not stem.endswith(SUFFIX):
                continue
            path, number = os.path.join(place, name), stem.removesuffix(SUFFIX)
            if number in found:
                raise DatasetError(
                    f"two files are image {number} of {file}: {found[number]} and {path}; keep one"
                )
            found[number] = path
    return {
        number: os.path.relpath(found[str(number)], folder)
        if str(number) in found
        else f"<city>/{number}{SUFFIX}.*"  # is missing, and named so
        for number in listed
    }


CITYSCAPES_FORMAT = Format(
    name="cityscapes_format",
    annotations=("gtFine/cityscapes_panoptic_{split}.json",),
    images=("leftImg8bit/{split}",),
    labels=("gtFine/cityscapes_panoptic_{split}",),
    find_images=_by_id,
)


_NAMES = ("{split}", "{split}2017")


def _by_name(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    return {
        number: inside(image.get("file_name"), f'{file}: "file_name" of image {number!r}')
        for number, image in listed.items()
    }


COCO_FORMAT = Format(
    name="coco_format",
    annotations=tuple(f"annotations/panoptic_{name}.json" for name in _NAMES),
    images=(*_NAMES, *(f"images/{name}" for name in _NAMES), "images", "."),
    labels=(
        *(f"panoptic_{name}" for name in _NAMES),
        *(f"annotations/panoptic_{name}" for name in _NAMES),  # where COCO's archives lie
        ".",
    ),
    find_images=_by_name,
)


FORMATS = {form.name: form for form in (COCO_FORMAT, CITYSCAPES_FORMAT)}


def own_classes(
    *,
    form: str,
    root: str | None,
    train_split: str,
    test_split: str,
    train_json: str | None = None,
    test_json: str | None = None,
    classes_file: str | None = None,
) -> Classes:
    """The classes of a dataset: its things, then its stuff, each in the order of category ids.

    Args:
        form: one of FORMATS.
        root: the dataset's folder.
        train_split, test_split: names of the splits. Their categories must be the same; one of the
            two may be missing.
        train_json, test_json: their JSON files, where they lie elsewhere.
        classes_file: None, or the `classes.json` of a run, which needs no dataset.

    Raises:
        DatasetError: a file is missing or torn, its categories make no classes, or two differ.
    """
    if classes_file is not None:
        try:
            return load_classes(Path(classes_file).expanduser())
        except ValueError as error:
            raise DatasetError(f"dataset.classes_file: {error}") from error
    splits = [
        OwnSplit(FORMATS[form], root=root, part=part, split=split, json=json)
        for part, split, json in (
            ("train", train_split, train_json),
            ("test", test_split, test_json),
        )
    ]
    files = [split.file for split in splits if split.file.is_file()]
    if not files:
        try:
            splits[0].require_annotations()
        except DatasetError as error:
            raise DatasetError(
                f"{error};\n             for a trained model without its dataset: "
                "dataset.classes_file=RUN/classes.json"
            ) from error
    return read_categories(files).classes


def own_dataset(
    *,
    form: str,
    task: str,
    part: str,
    classes: Classes,
    root: str | None,
    split: str,
    json: str | None = None,
    images: str | None = None,
    labels: str | None = None,
) -> str:
    """Register a split after checking that it is complete.

    Args:
        form: one of FORMATS.
        task: "panoptic" or "semantic". Labels of both are the panoptic PNGs.
        part: "train" or "test": what the split is used for.
        classes: of the dataset.
        root: the dataset's folder.
        split: its name, as in names of files.
        json, images, labels: file of annotations, folder of images, folder of PNGs, where they are
            not those of the format; relative to `root`.

    Returns:
        The name in Detectron2's catalogs, `<form>_<part>_<task>`. Categories of segments are
        contiguous, things first.

    Raises:
        DatasetError: something is missing or does not fit together; names the file and the remedy.
    """
    own = OwnSplit(
        FORMATS[form], root=root, part=part, split=split, json=json, images=images, labels=labels
    )
    return register_once(
        f"{form}_{part}_{task}",
        sources=own.sources(),
        load=lambda: own.load(classes),
        metadata=lambda: own.metadata(classes, semantic=task == "semantic"),
    )

"""Custom datasets: classes and splits come from panoptic JSON files of one of these formats.

coco_format, COCO's panoptic format with any categories:

    <root>/
      annotations/panoptic_<split>.json   categories, images, segments; or panoptic_<split>2017.json
      <split>/<file_name>                 images of any format that Pillow reads; or images/<split>/
      panoptic_<split>/<file_name>        PNGs: a segment's id = R + 256 G + 256^2 B, 0 where void

cityscapes_format, Cityscapes' folders with any categories, as the official `createPanopticImgs`
leaves them (neither polygons nor PNGs of labels, instances or train ids are needed):

    <root>/
      gtFine/cityscapes_panoptic_<split>.json          categories, images, segments
      gtFine/cityscapes_panoptic_<split>/<file_name>   PNGs, as in COCO's panoptic format
      leftImg8bit/<split>/<city>/<image id>_leftImg8bit.png     or .jpg, .tif, ...

mapillary_<version>, Mapillary Vistas, whose JSON files are those of COCO's panoptic format:

    <root>/mapillary_vistas/ or <root>/, and in it for the splits training and validation
      <split>/images/<image id>.jpg
      <split>/v2.0/panoptic/panoptic_2020.json, <image id>.png
      <split>/v1.2/panoptic/panoptic_2018.json, <image id>.png; or without v1.2/, as released first

File names are those of the JSON file, and may have folders in them. A test split may be without
ground truth: its JSON file has "images" alone, and the classes are those of the training split.
"""

import fnmatch
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any

from panoptic_dl.core.archives import files_below, is_folder, list_folder, places
from panoptic_dl.core.classes import Classes, load_classes
from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.files import local_path, near_names, script_command
from panoptic_dl.core.images import segment_problem
from panoptic_dl.core.masks import entries_by_id
from panoptic_dl.datasets.categories import (
    GUIDE,
    class_metadata,
    has_truth,
    read_annotations,
    read_categories,
    repeated_stuff,
)
from panoptic_dl.datasets.formats.official import official_layout
from panoptic_dl.datasets.registry import NO_TRUTH, Record, register_once

LAYOUT_HELP = "docs/how-to/formats.md says what lies where"
WITHOUT_DATA = "for a trained model without its dataset: dataset.classes_file=RUN/classes.json"
CITY_SUFFIX = "_leftImg8bit"

Images = Mapping[Any, dict[str, Any]]  # entries of the JSON file by the id of the image


def custom_classes(
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
        form: one of FORMATS, or of `importing.FORMATS`.
        root: the dataset's folder.
        train_split, test_split: names of the splits. The classes are those of training, or of test
            where there is no training; `custom_dataset` refuses a split that has others.
        train_json, test_json: their JSON files, where they lie elsewhere.
        classes_file: None, or the `classes.json` of a run, which needs no dataset.

    Raises:
        DatasetError: a file is missing or torn, or its categories make no classes.
    """
    if classes_file is not None:
        try:
            return load_classes(local_path(classes_file, "dataset.classes_file"))
        except ValueError as error:
            raise DatasetError(f"dataset.classes_file: {error}") from error
    train = _Split(form, "train", train_split, root, json=train_json)
    test = _Split(form, "test", test_split, root, json=test_json)
    split = test if test.file.is_file() and not train.file.is_file() else train
    split.require_annotations()
    return read_categories(split.file)


def custom_dataset(
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
    **numbers: int,
) -> str:
    """Register a split after checking that it is complete.

    Args:
        form: one of FORMATS, or of `importing.FORMATS`.
        task: "panoptic" or "semantic". Labels of both are the panoptic PNGs.
        part: "train" or "test": what the split is used for.
        classes: of the dataset.
        root: the dataset's folder.
        split: its name, as in names of files.
        json, images, labels: file of annotations, folder of images, folder of PNGs, where they are
            not those of the format; relative to `root`.
        numbers: `label_divisor` and `ignore_label` of the config, see `register_once`.

    Returns:
        The name in Detectron2's catalogs, `<form>_<part>_<task>`. Categories of segments are
        contiguous, things first.

    Raises:
        DatasetError: something is missing or does not fit together; names the file and the remedy.
    """
    files = _Split(form, part, split, root, json=json, images=images, labels=labels)
    return register_once(
        f"{form}_{part}_{task}",
        sources=[files.file, *files.image_folders, *files.label_folders],
        found=files.found,
        load=lambda: files.load(classes, panoptic=task == "panoptic"),
        metadata=lambda: files.metadata(classes, semantic=task == "semantic"),
        **numbers,
    )


@dataclass(frozen=True)
class _Format:
    """Where the files of a split lie below `dataset.root`, unless the config names other places."""

    json: tuple[str, ...]  # the first that exists is taken; {split} is replaced by the name
    images: tuple[str, ...]  # folders; the first that holds the first listed file is taken
    labels: tuple[str, ...]  # likewise
    # From such a folder, the images listed and the JSON file (for messages) to the image files by
    # id, relative to the folder. They need not exist.
    find_images: Callable[[Path, Images, Path], dict[Any, str]]
    help: str = LAYOUT_HELP  # where to learn what lies where


def _coco_images(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    return {
        number: _inside(image.get("file_name"), f'{file}: "file_name" of image {number!r}')
        for number, image in listed.items()
    }


def _cityscapes_images(folder: Path, listed: Images, file: Path) -> dict[Any, str]:
    """`<city>/<image id>_leftImg8bit.<any>`: "file_name" of the official files is another."""
    found: dict[str, str] = {}
    for name in fnmatch.filter(files_below(folder), f"*{CITY_SUFFIX}.*"):
        number = Path(name).stem.removesuffix(CITY_SUFFIX)
        if number in found:
            raise DatasetError(
                f"two files are image {number} of {file}: {folder / found[number]} and "
                f"{folder / name}; keep one"
            )
        found[number] = name
    # A missing one is named in a way that says so.
    return {i: found.get(str(i), f"<city>/{i}{CITY_SUFFIX}.*") for i in listed}


def _mapillary(folders: tuple[str, ...], file: str) -> _Format:
    """The format of a version, with the places of its panoptic folder in that of a split."""
    return _Format(
        json=tuple(f"{{split}}/{folder}/{file}" for folder in folders),
        images=("{split}/images",),
        labels=tuple(f"{{split}}/{folder}" for folder in folders),
        find_images=_coco_images,
        help=f"`{script_command('prepare_dataset')} mapillary ROOT` says what to download",
    )


FORMATS = {
    "coco_format": _Format(
        json=(
            "annotations/panoptic_{split}.json",
            "annotations/panoptic_{split}2017.json",
            "annotations/{split}.json",  # of LightlyTrain
            "annotations/image_info_{split}.json",  # without ground truth
            "annotations/image_info_{split}2017.json",
        ),
        images=("{split}", "{split}2017", "images/{split}", "images/{split}2017", "images", "."),
        labels=(
            "panoptic_{split}",
            "panoptic_{split}2017",
            "annotations/panoptic_{split}",  # where COCO's archives lie
            "annotations/panoptic_{split}2017",
            "annotations/{split}",
            ".",
        ),
        find_images=_coco_images,
    ),
    "cityscapes_format": _Format(
        json=("gtFine/cityscapes_panoptic_{split}.json",),
        images=("leftImg8bit/{split}",),
        labels=("gtFine/cityscapes_panoptic_{split}",),
        find_images=_cityscapes_images,
    ),
    "mapillary_v1.2": _mapillary(("v1.2/panoptic", "panoptic"), "panoptic_2018.json"),
    "mapillary_v2.0": _mapillary(("v2.0/panoptic",), "panoptic_2020.json"),
}


class _Split:
    """The files of one split; see `custom_dataset` for the arguments."""

    def __init__(
        self,
        form: str,
        part: str,
        split: str,
        root: str | None,
        **given: str | None,
    ) -> None:
        if root is None:
            raise DatasetError(
                f"dataset={form} needs dataset.root=FOLDER, the folder of your data; {LAYOUT_HELP}"
            )
        name, _, version = form.partition("_v")
        if version and form not in FORMATS:
            raise DatasetError(f"{name} has no dataset.version=v{version}: write v1.2 or v2.0")
        self.form = FORMATS.get(form, FORMATS["coco_format"])  # as which others are imported
        self.is_imported = form not in FORMATS  # labels are in a cache, images in dataset.root
        self.part, self.split = part, split
        folder = "mapillary_vistas" if version else ""
        self.layout = official_layout(f"dataset={name}", root, folder)
        self.json_files, self.image_folders, self.label_folders = (
            self._places(key, given.get(key)) for key in ("json", "images", "labels")
        )
        # Folders of "images" and "labels", and "warnings", when they are found.
        self.found: dict[str, Any] = {}
        self.file = next((file for file in self.json_files if file.is_file()), self.json_files[0])

    def _places(self, key: str, given: str | None) -> list[Path]:
        usual = getattr(self.form, key)
        names = [given] if given else [name.format(split=self.split) for name in usual]
        base = Path.cwd() if key == "images" and self.is_imported else self.layout.base
        paths = [base / local_path(n, f"dataset.{self.part}_{key}") for n in names]
        return paths if key == "json" else [place for path in paths for place in places(path)]

    def require_annotations(self) -> None:
        """Raise `DatasetError` unless the JSON file exists; name the places that were tried."""
        remedy = f"dataset.root=FOLDER that holds your data; {WITHOUT_DATA}"
        self.layout.require_folder(self.layout.base, remedy)
        if not self.file.is_file():
            names = dict.fromkeys(file.name for file in self.json_files)
            others = "".join(f", nor {name}" for name in names if name != self.file.name)
            others += near_names(self.file.parent, self.file.name)
            remedy = f"{self._remedy('json', 'FILE')};\n             {WITHOUT_DATA}"
            raise self.layout.error(f"file missing: {self.file}{others}", remedy)

    def load(self, classes: Classes, *, panoptic: bool) -> list[Record]:
        """Check the split and return Detectron2's records."""
        if not self.has_truth:
            content = read_annotations(self.file, ("images",))
            return list(self._image_records(listed_images(content, self.file)).values())
        found, content = self._classes_of_file(classes), read_annotations(self.file)
        contiguous = {category: index for index, category in enumerate(found.category_ids)}
        of_images = self._image_records(annotated_images(content, self.file))
        where = f'{self.file}: "file_name" of the annotation of image'
        labels = {
            number: _inside(annotation.get("file_name"), f"{where} {number!r}")
            for number, annotation in zip(of_images, content["annotations"], strict=True)
        }
        files = self._find("labels", self.label_folders, lambda folder: labels)
        records = [
            of_images[number]
            | {
                "pan_seg_file_name": files[number],
                "segments_info": read_segments(annotation, self.file, contiguous, found.thing_ids),
            }
            for number, annotation in zip(of_images, content["annotations"], strict=True)
        ]
        warnings = [repeated_stuff(records, classes.names, classes.thing_ids) if panoptic else ""]
        if left_out := len(content["images"]) - len(records):
            number = f"{left_out} of its {len(content['images'])} images"
            warnings.append(f"{number} have no annotation and are left out")
        self.found["warnings"] = [f"{self.file}: {text}" for text in warnings if text]
        return records

    @property
    def has_truth(self) -> bool:
        """Whether there are annotations, without which a test split can be predicted."""
        self.require_annotations()
        return self.part != "test" or has_truth(self.file)

    def _image_records(self, images: Images) -> dict[Any, Record]:
        """Records of images, by id, without their labels."""
        files = self._find(
            "images", self.image_folders, lambda f: self.form.find_images(f, images, self.file)
        )
        records = {}
        for number, image in images.items():
            records[number] = {"file_name": files[number], "image_id": number}
            # The loader groups images by shape, by their listed sizes without opening them.
            size = {side: image.get(side) for side in ("height", "width")}
            if all(type(value) is int and value > 0 for value in size.values()):
                records[number] |= size
        return records

    def metadata(self, classes: Classes, *, semantic: bool) -> dict[str, Any]:
        """For Detectron2's catalog; call `load` before."""
        if not self.has_truth:
            if not classes.category_ids:
                raise self.layout.error(
                    f"{self.file} has no ground truth, and dataset.classes_file, which an earlier "
                    "version wrote, no ids of categories",
                    "name a dataset.root with the JSON file of training",
                )
            return class_metadata(classes, semantic=semantic) | {
                **NO_TRUTH,
                "image_root": self.found["images"],
                "json_file": str(self.file),
            }
        return class_metadata(self._classes_of_file(classes), semantic=semantic) | {
            "image_root": self.found["images"],
            "panoptic_root": self.found["labels"],
            "panoptic_json": str(self.file),
            "evaluator_type": "sem_seg" if semantic else "coco_panoptic_seg",
        }

    def _classes_of_file(self, classes: Classes) -> Classes:
        """The classes of the JSON file, in the colors of the dataset."""
        self.require_annotations()
        found = read_categories(self.file)
        difference = found.difference(classes)
        if difference:
            raise self.layout.error(
                f"{self.file} has other categories than dataset.classes: {difference}",
                "list the same categories in the JSON files of training and test, and of the model",
            )
        return replace(found, colors=classes.colors)

    def _remedy(self, key: str, value: str = "FOLDER") -> str:
        """How to name the place of files: `key` is "json", "images" or "labels"."""
        return (
            f"put it there, or say where it is: dataset.{self.part}_{key}={value} (relative to "
            f"dataset.root);\n             dataset.{self.part}_split=NAME takes another split than "
            f"{self.split}; {self.form.help}"
        )

    def _find(
        self, key: str, folders: list[Path], names_in: Callable[[Path], dict[Any, str]]
    ) -> dict[Any, str]:
        """The paths of all files, below the folder that holds the first one."""
        for folder in folders:
            names = names_in(folder)
            first = next(iter(names.values()))
            if _existing(folder, [first]):
                found = _existing(folder, names.values())
                self.layout.require_files(names.values(), found, folder, self._remedy(key))
                self.found[key] = str(folder)
                return {number: str(folder / name) for number, name in names.items()}
        if len(folders) == 1:
            self.layout.require_folder(folders[0], self._remedy(key))
        inside = (folder for folder in folders if folder != self.layout.base)
        near = next(filter(None, (near_names(each, first, deep=True) for each in inside)), "")
        raise self.layout.error(
            f"file missing: {first}, which {self.file} lists{near}; looked for it in\n             "
            + "\n             ".join(map(str, folders)),
            self._remedy(key),
        )


def listed_images(content: Mapping[str, Any], file: Path) -> dict[Any, dict[str, Any]]:
    """The entries of images, by id.

    Raises:
        DatasetError: an image has no id, or that of another one; names `file`.
    """
    images = entries_by_id(
        content["images"], "image", lambda what: DatasetError(f"{file}: {what}; {GUIDE}")
    )
    if len(set(map(type, images))) > 1:
        raise DatasetError(f"{file}: some image ids are numbers and some texts; write one kind")
    return images


def annotated_images(content: dict[str, Any], file: Path) -> dict[Any, dict[str, Any]]:
    """The entries of images that have an annotation, by id."""
    images = listed_images(content, file)
    annotated: dict[Any, dict[str, Any]] = {}
    for annotation in content["annotations"]:
        number = annotation.get("image_id")
        problem = ""
        if not isinstance(annotation.get("segments_info"), list):
            problem = (
                "has no segments_info: this is no panoptic file. Of instances or detections: "
                "dataset=coco_instances"
            )
        elif type(number) not in (int, str) or number not in images:
            problem = 'is not among its "images"; list that image or remove the annotation'
        elif number in annotated:
            problem = "is the second one; put all segments of an image in one"
        if problem:
            raise DatasetError(f"{file}: an annotation of image {number!r} {problem}")
        annotated[number] = images[number]
    return annotated


def read_segments(
    annotation: dict[str, Any], file: Path, contiguous: Mapping[int, int], things: Sequence[int]
) -> list[dict[str, Any]]:
    """The segments of an annotation, with contiguous categories."""
    segments: dict[int, dict[str, Any]] = {}
    for segment in annotation["segments_info"]:
        number, category, area = map(segment.get, ("id", "category_id", "area"))
        problem = segment_problem(segment, segments)
        if not problem and (type(category) is not int or category not in contiguous):
            problem = (
                f' has the category_id {category!r}, which is not among the "categories" of that '
                "file; list it there, or correct the segment"
            )
        if problem:
            raise DatasetError(f"{file}: segment {number!r} of {annotation['file_name']}{problem}")
        segments[number] = {
            "id": number,
            "category_id": contiguous[category],
            "iscrowd": int(segment.get("iscrowd", 0)),
            "isthing": contiguous[category] in things,
            **({} if area is None else {"area": area}),
        }
    return list(segments.values())


def _inside(name: Any, where: str) -> str:
    """A relative file name, in its shortest form; DatasetError if it leads out of its folder: a
    file of annotations that was downloaded must not choose what is read."""
    shortest = os.path.normpath(name) if isinstance(name, str) and name else ".."
    if os.path.isabs(shortest) or PurePath(shortest).parts[:1] == ("..",):
        raise DatasetError(
            f"{where} is {name!r}; write it relative to the folder of these files, and inside it; "
            f"{GUIDE}"
        )
    return shortest


def _existing(folder: Path, names: Iterable[str]) -> set[str]:
    """Which of `names`, relative to `folder`, are files; each folder is listed once."""
    by_parent: dict[str, list[str]] = {}
    for name in names:
        by_parent.setdefault(os.path.dirname(name), []).append(name)
    found: set[str] = set()
    for parent, inside in by_parent.items():
        if is_folder(folder / parent):
            listed = set(list_folder(folder / parent))
            found.update(name for name in inside if os.path.basename(name) in listed)
    return found

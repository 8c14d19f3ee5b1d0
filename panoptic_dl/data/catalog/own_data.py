"""Own data by the name of its format: its classes and its splits come from its files."""

from pathlib import Path

from panoptic_dl.classes import Classes, load_classes
from panoptic_dl.data.catalog.categories import read_categories
from panoptic_dl.data.catalog.cityscapes_format import CITYSCAPES_FORMAT
from panoptic_dl.data.catalog.coco_format import COCO_FORMAT
from panoptic_dl.data.catalog.own_split import OwnSplit
from panoptic_dl.data.catalog.registry import register_once
from panoptic_dl.data.errors import DatasetError

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

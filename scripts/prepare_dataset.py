"""Make ADE20K, Mapillary Vistas, PASCAL VOC or BDD100K ready: unpack archives, count.

    python scripts/prepare_dataset.py {ade20k,bdd100k,mapillary,voc} ROOT [--workers N] [--check]

ROOT is the folder of datasets (DETECTRON2_DATASETS), or the dataset's own folder in it. Put the
archives into it, packed; without them the command says what to download. What exists is kept, so an
interrupted run continues where it stopped.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.core.headers import check_records
from panoptic_dl.core.parallel import Say
from panoptic_dl.datasets.formats import ade20k, bdd100k, voc
from panoptic_dl.datasets.formats.base import Sample
from preparation import (
    OfficialArchive,
    dataset_folder,
    describe,
    find_archives,
    is_complete_png,
    lock_folder,
    missing_folder,
    run_command,
    unpack,
    unpack_tar,
)


@dataclass(frozen=True)
class Dataset:
    """What makes a dataset ready.

    Attributes:
        title: for people.
        folder: its own, below ROOT.
        archives: the official ones, and the folders below ROOT that they are unpacked into.
        folders: which must be there, below its own.
        counts: of images, by split.
        how: to get the archives.
    """

    title: str
    folder: str
    archives: Mapping[OfficialArchive, str]
    folders: tuple[str, ...]
    counts: Mapping[str, int]
    how: str


SCENES = "ADEChallengeData2016"
DATASETS = {
    "ade20k": Dataset(
        "ADE20K",
        SCENES,
        {
            OfficialArchive(
                f"{SCENES}.zip",
                967_000_000,
                re.compile(SCENES + r"/(images|annotations)/(training|validation)/\w+\.(jpg|png)"),
            ): "",
            OfficialArchive(
                "annotations_instance.tar",
                90_398_720,
                re.compile(r"annotations_instance/(training|validation)/\w+\.png"),
            ): SCENES,
        },
        ("images", "annotations", "annotations_instance"),
        {"train": 20210, "val": 2000},
        "They are free for research; terms: sceneparsing.csail.mit.edu. For instance:\n\n"
        f"  wget -c http://data.csail.mit.edu/places/ADEchallenge/{SCENES}.zip\n"
        "  wget -c http://sceneparsing.csail.mit.edu/data/ChallengeData2017/"
        "annotations_instance.tar\n",
    ),
    "voc": Dataset(
        "PASCAL VOC 2012",
        "VOCdevkit",
        {
            OfficialArchive(
                "VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                re.compile(
                    r"VOCdevkit/VOC2012/(JPEGImages/\w+\.jpg|Segmentation(Class|Object)/\w+\.png|"
                    r"ImageSets/Segmentation/\w+\.txt)"
                ),
            ): "",
        },
        ("VOC2012/JPEGImages", "VOC2012/SegmentationClass", "VOC2012/SegmentationObject"),
        {"train": 1464, "val": 1449},
        "It is free; see host.robots.ox.ac.uk/pascal/VOC for the terms. For instance:\n\n"
        "  wget -c http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar\n",
    ),
    "bdd100k": Dataset(
        "BDD100K",
        "bdd100k",
        {
            **{
                OfficialArchive(
                    f"10k_images_{split}.zip",
                    0,
                    re.compile(rf"bdd100k/images/10k/{split}/[\w-]+\.jpg"),
                ): ""
                for split in ("train", "val")
            },
            OfficialArchive(
                "bdd100k_pan_seg_labels_trainval.zip",
                363_000_000,
                re.compile(r"bdd100k/labels/pan_seg/bitmasks/(train|val)/[\w-]+\.png"),
            ): "",
        },
        ("images/10k", "labels/pan_seg/bitmasks"),
        {"train": 7000, "val": 1000},
        "bdd100k_images_10k.zip (about 1.1 GB) has the images of all splits and will do, too. They "
        "are\nfree for research after registration at bdd-data.berkeley.edu, or from "
        "dl.cv.ethz.ch/bdd100k/data.\n",
    ),
    "mapillary": Dataset(
        "Mapillary Vistas",
        "mapillary_vistas",
        {
            OfficialArchive(
                "mapillary-vistas-dataset_public_v1.2.zip",  # that of v2.0 has a name of its own
                0,
                re.compile(
                    r"(training|validation)/(images/[\w-]+\.jpg|"
                    r"(v1\.2/|v2\.0/)?panoptic/([\w-]+\.png|panoptic_20(18|20)\.json))"
                ),
            ): "mapillary_vistas",
        },
        ("training/images", "validation/images"),
        {"training": 18000, "validation": 2000},
        "Or that of v2.0, which has both versions, whatever its name. It is free for research after"
        "\nregistration at mapillary.com/dataset/vistas.\n",
    ),
}
READERS = {"ade20k": ade20k.read, "bdd100k": bdd100k.read, "voc": voc.read}


def prepare_dataset(name: str, root: str | Path, *, num_workers: int = 1, say: Say = print) -> None:
    """Unpack the archives where that is not done yet, and check that all is there.

    Args:
        name: one of DATASETS.
        root: the folder that holds the dataset's, or the archives; or that folder itself.
        num_workers: processes that share the work.
        say: is called with lines for people: progress and a summary of what is there.

    Raises:
        DatasetError: archives, folders or files are missing or damaged; the disk is full; another
            process is at work there.
    """
    dataset = DATASETS[name]
    base = dataset_folder(root, dataset.folder)
    places = [base, base.parent]
    zips = {
        official: find_archives(places, [official], say)
        for official in dataset.archives
        if official.name.endswith(".zip")
    }
    tars = [official for official in dataset.archives if official not in zips]
    there = any(o.has_name(f.name) for o in tars for f in base.parent.iterdir())
    if not base.is_dir() and not any(zips.values()) and not there:
        raise _missing(dataset, base, dataset.folders[0])
    with lock_folder(base):
        for official, folder in dataset.archives.items():
            target = base.parent / folder
            if official in zips:
                unpack(zips[official], target, num_workers=num_workers, say=say)
            else:
                unpack_tar(official, places, target, say=say)
    check_dataset(name, root, say=say)


def check_dataset(name: str, root: str | Path, *, say: Say = print) -> None:
    """Read the dataset as training does, and say how many images are there; nothing is changed.

    Raises:
        DatasetError: something is missing or damaged that training and evaluation need.
    """
    dataset = DATASETS[name]
    base = dataset_folder(root, dataset.folder)
    for folder in dataset.folders:
        if not (base / folder).is_dir():
            raise _missing(dataset, base, folder)
    if name == "mapillary":
        return _check_mapillary(base, say)
    export = READERS[name](base)
    for split, official in dataset.counts.items():
        samples = export.splits.get(split, [])
        records = [{"file_name": str(s.image), "labels": _labels(s)} for s in samples]
        check_records(split, records, lambda record: [(f, None) for f in record["labels"]])
        _require_complete(dataset, [file for sample in samples for file in _labels(sample)])
        for sample in samples[:1]:
            sample.label()
        say(f"{split}: {describe(len(samples), official)}")
    for note in export.notes:
        say(note)
    say(f"ready: dataset={name} dataset.root={base}")


def _labels(sample: Sample) -> list[str]:
    """The files of its label, which are arguments of its partial."""
    arguments = getattr(sample.label, "args", ())
    return [str(each) for each in arguments if isinstance(each, Path)]


def _require_complete(dataset: Dataset, files: Sequence[str]) -> None:
    """Raise `DatasetError` if one of the PNGs is torn."""
    if torn := [file for file in files if not is_complete_png(Path(file))]:
        remedy = "delete them and run this again with the archives in place"
        raise DatasetError(f"{dataset.title}: {len(torn)} torn files, first {torn[0]}: {remedy}")


def _check_mapillary(base: Path, say: Say) -> None:
    """Both versions, where they are there."""
    from detectron2.data import DatasetCatalog  # takes seconds: only where it is needed

    from panoptic_dl.core.headers import check_records
    from panoptic_dl.datasets.custom import FORMATS, custom_classes, custom_dataset

    dataset = DATASETS["mapillary"]
    train, val = dataset.counts
    forms = [
        form
        for form, layout in FORMATS.items()
        if form.startswith("mapillary")
        and any((base / file.format(split=train)).is_file() for file in layout.json)
    ]
    if not forms:
        raise _missing(dataset, base, "training/v1.2/panoptic/panoptic_2018.json")
    for form in forms:
        version, root = form.partition("_")[2], str(base.parent)
        classes = custom_classes(form=form, root=root, train_split=train, test_split=val)
        for part, split in (("train", train), ("test", val)):
            registered = custom_dataset(
                form=form, task="panoptic", part=part, classes=classes, root=root, split=split
            )
            records = DatasetCatalog.get(registered)
            check_records(split, records)
            _require_complete(dataset, [str(r["pan_seg_file_name"]) for r in records])
            say(f"{version}, {split}: {describe(len(records), dataset.counts[split])}")
        things = f"{len(classes.thing_ids)} of them things"
        say(
            f"ready: dataset=mapillary dataset.version={version} dataset.root={root} "
            f"({len(classes)} classes, {things})"
        )


def _missing(dataset: Dataset, base: Path, folder: str) -> DatasetError:
    """Say what to download for a folder that is not there."""
    return missing_folder(
        dataset.title,
        base / folder,
        list(dataset.archives),
        dataset.how,
        places=(base, base.parent),
    )


if __name__ == "__main__":
    run_command(
        str(__doc__), prepare_dataset, check_dataset, "the dataset's folder", sorted(DATASETS)
    )

"""COCO panoptic (Kirillov et al., CVPR 2019) and whatever lies on disk as it does.

    <root>/coco/
      <split>2017/<id>.jpg
      panoptic_<split>2017/<id>.png           a segment's id = R + 256 G + 256^2 B
      annotations/panoptic_<split>2017.json   a segment's category; lists the images
      annotations/instances_val2017.json      for box and mask AP only

Splits without public labels, which the server scores, are predicted: "test-dev" and "test" of

      test2017/<id>.jpg
      annotations/image_info_<split>2017.json   lists the images

A folder of images that is not there is read in its official archive, be that in <root>/coco or in
<root>, and one of PNGs in panoptic_<split>2017.zip, there or in annotations/, where it is as soon
as panoptic_annotations_trainval2017.zip is unpacked.

Part of the images with an annotation file of its own is a valid dataset. `panoptic_stuff_*` folders
are not needed: semantic labels (133 classes) are read from the panoptic PNGs.
"""

import os
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from panoptic_dl.core.archives import folder_or_archived
from panoptic_dl.core.classes import Classes
from panoptic_dl.core.files import script_command
from panoptic_dl.datasets.categories import class_metadata
from panoptic_dl.datasets.registry import NO_TRUTH, Layout, Record, list_files, register_once

SPLITS = ("train", "val")


def coco_classes() -> Classes:
    """The 80 things, then the 53 stuff classes."""
    return Classes.of_categories(COCO_CATEGORIES)


def coco_panoptic(*, root: str, split: str, prefix: str = "", **numbers: int) -> str:
    """Register a panoptic split of COCO 2017 after checking that it is complete.

    Args:
        root: folder that holds `coco/`.
        split: "train" or "val"; or "test-dev", "test", whose images have no ground truth.
        prefix: put before the official name: "toy_" for the generated look-alike.
        numbers: `label_divisor` and `ignore_label` of the config, see `register_once`.

    Returns:
        The name in Detectron2's catalogs, `coco_2017_<split>_panoptic`. Its records and metadata
        are those of Detectron2's own entry, and the sizes of images; categories of segments count
        from 0, things first.

    Raises:
        DatasetError: something is missing or does not fit together; names the file and the remedy.
    """
    return _register(f"{prefix}coco_2017_{split}_panoptic", root, split, False, numbers)


def coco_semantic(*, root: str, split: str, prefix: str = "", **numbers: int) -> str:
    """Register a semantic split of COCO 2017: the 133 panoptic classes, things and stuff alike.

    Arguments and errors are those of `coco_panoptic`; the name is
    `coco_2017_<split>_panoptic_semantic`. The records are the panoptic ones.
    """
    return _register(f"{prefix}coco_2017_{split}_panoptic_semantic", root, split, True, numbers)


def _register(name: str, root: str, split: str, semantic: bool, numbers: dict[str, int]) -> str:
    layout = Layout("COCO 2017", str(root), "coco")
    metadata = class_metadata(coco_classes(), semantic=semantic)
    has_truth, listings = split in SPLITS, layout.base / "annotations"
    places = {"image_root": folder_of(layout.base, f"{split.partition('-')[0]}2017")}
    if has_truth:
        metadata["evaluator_type"] = "sem_seg" if semantic else "coco_panoptic_seg"
        places["panoptic_root"] = folder_of(layout.base, f"panoptic_{split}2017")
        places["panoptic_json"] = listings / f"panoptic_{split}2017.json"
        places["json_file"] = listings / f"instances_{split}2017.json"
    else:
        metadata |= NO_TRUTH
        places["json_file"] = listings / f"image_info_{split}2017.json"
    metadata |= {key: str(place) for key, place in places.items()}

    def load() -> list[Record]:
        files = [*places.values()]
        return _records(layout, split, *files) if has_truth else _images(layout, *files)

    return register_once(
        name, sources=places.values(), load=load, metadata=lambda: metadata, **numbers
    )


def folder_of(base: Path, name: str) -> Path:
    """A folder in `<root>/coco`, or that of its name in its official archive."""
    places = base, base.parent, base / "annotations"
    return folder_or_archived(base / name, name, *(place / f"{name}.zip" for place in places))


def _images(layout: Layout, folder: Path, listing: Path) -> list[Record]:
    """The images of a split without ground truth, in Detectron2's format."""
    remedy = (
        f"put {folder.name}.zip and image_info_{folder.name}.zip from cocodataset.org into "
        f"{layout.base} and unpack them, or choose another dataset.test_split: val is the one with "
        "ground truth"
    )
    layout.require_folder(folder, remedy)
    content = layout.read_json(listing, remedy)
    try:
        records = [
            {
                "file_name": str(folder / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
            }
            for image in content["images"]
        ]
    except (KeyError, TypeError) as error:
        raise layout.error(f"missing key {error} in {listing}", remedy) from error
    names = {Path(record["file_name"]).name for record in records}
    layout.require_files(names, list_files(folder, ".jpg"), folder, remedy)
    return records


def _records(
    layout: Layout, split: str, images: Path, labels: Path, listing: Path, instances: Path
) -> list[Record]:
    """Check the layout and return Detectron2's records, with the sizes of images."""
    get_images, get_instances, get_labels = (
        f"put {archive} into {layout.base} and run "
        f"`{script_command('prepare_coco')} {layout.root}`, which says where to download it"
        for archive in (
            f"{split}2017.zip",
            "annotations_trainval2017.zip",
            "panoptic_annotations_trainval2017.zip",
        )
    )
    layout.require_folder(images, get_images)
    layout.require_folder(labels, get_labels)
    if split == "val":
        layout.require_file(instances, get_instances)
    content = layout.read_json(listing, get_labels)
    if not content.get("annotations"):
        raise layout.error(f"{listing} lists no image", get_labels)
    try:
        names = {annotation["file_name"] for annotation in content["annotations"]}
        layout.require_files(names, list_files(labels, ".png"), labels, get_labels)
        jpegs = {os.path.splitext(name)[0] + ".jpg" for name in names}
        layout.require_files(jpegs, list_files(images, ".jpg"), images, get_images)
        # As Detectron2's `load_coco_panoptic_json`, and sizes: the loader groups images by shape
        # before it reads them.
        classes, sizes = coco_classes(), {image["id"]: image for image in content["images"]}
        contiguous = {category: index for index, category in enumerate(classes.category_ids)}
        records: list[Record] = []
        for annotation in content["annotations"]:
            name, image = annotation["file_name"], sizes[int(annotation["image_id"])]
            for segment in annotation["segments_info"]:
                segment["category_id"] = contiguous[segment["category_id"]]
                segment["isthing"] = segment["category_id"] in classes.thing_ids
            record = {
                "file_name": os.path.join(images, os.path.splitext(name)[0] + ".jpg"),
                "image_id": image["id"],
                "pan_seg_file_name": os.path.join(labels, name),
                "segments_info": annotation["segments_info"],
                "height": image["height"],
                "width": image["width"],
            }
            records.append(record)
    except (KeyError, TypeError) as error:
        problem = f"unknown category or missing key {error} in {listing}"
        raise layout.error(problem, get_labels) from error
    return records

"""Cityscapes (Cordts et al., CVPR 2016) and whatever lies on disk as it does.

    <root>/cityscapes/
      leftImg8bit/<split>/<city>/<id>_leftImg8bit.png
      gtFine/<split>/<city>/<id>_gtFine_{labelIds,instanceIds}.png
      gtFine/<split>/<city>/<id>_gtFine_labelTrainIds.png                   prepared
      gtFine/cityscapes_panoptic_<split>/<id>_gtFine_panoptic.png           prepared
      gtFine/cityscapes_panoptic_<split>.json                               prepared

with <id> = <city>_<sequence>_<frame>. The polygons of the archive are not needed, and hidden files,
which macOS leaves beside others, are not looked at. A split's images that are not there are read in
leftImg8bit_trainvaltest.zip, which lies in <root>/cityscapes or in <root>. The split "test", which
the server scores, needs its images alone: its labels in the archive are empty.
"""

from pathlib import Path
from typing import Any

from detectron2.data.datasets.builtin_meta import CITYSCAPES_CATEGORIES, _get_builtin_metadata

from panoptic_dl.core.archives import folder_or_archived, is_folder, list_folder
from panoptic_dl.core.classes import Classes
from panoptic_dl.core.files import script_command
from panoptic_dl.datasets.categories import class_metadata
from panoptic_dl.datasets.registry import NO_TRUTH, Layout, Record, list_files, register_once

SPLITS, TEST = ("train", "val"), "test"
IMAGE = "_leftImg8bit.png"
LABEL_IDS, INSTANCES = "_gtFine_labelIds.png", "_gtFine_instanceIds.png"
TRAIN_IDS = "_gtFine_labelTrainIds.png"
PANOPTIC = "_gtFine_panoptic.png"

PREPARE = (
    "from cityscapes-dataset.com into it, packed as it is,\n"
    f"             then run: {script_command('prepare_cityscapes')} FOLDER-THAT-HOLDS-cityscapes"
)
GET_IMAGES = f"download leftImg8bit_trainvaltest.zip (11.6 GB) {PREPARE}"
GET_LABELS = f"download gtFine_trainvaltest.zip (253 MB) {PREPARE}"


def cityscapes_classes() -> Classes:
    """The 19 evaluated classes, by train id."""
    return Classes.of_categories(CITYSCAPES_CATEGORIES)


def cityscapes_panoptic(*, root: str, split: str, prefix: str = "", **numbers: int) -> str:
    """Register a panoptic split of Cityscapes after checking that it is complete.

    Args:
        root: folder that holds `cityscapes/`.
        split: "train" or "val"; or "test", whose images have no ground truth.
        prefix: put before the official name: "toy_" for the generated look-alike.
        numbers: `label_divisor` and `ignore_label` of the config, see `register_once`.

    Returns:
        The name in Detectron2's catalogs, `cityscapes_fine_panoptic_<split>`. Its records and
        metadata are those of Detectron2's own entry; categories of segments are train ids, 0..18.

    Raises:
        DatasetError: something is missing or does not fit together; names the file and the remedy.
    """
    return _register(f"{prefix}cityscapes_fine_panoptic_{split}", root, split, False, numbers)


def cityscapes_semantic(*, root: str, split: str, prefix: str = "", **numbers: int) -> str:
    """Register a semantic split of Cityscapes (19 train ids, 255 to ignore) after checking it.

    Arguments and errors are those of `cityscapes_panoptic`; the name is
    `cityscapes_fine_sem_seg_<split>`.
    """
    return _register(f"{prefix}cityscapes_fine_sem_seg_{split}", root, split, True, numbers)


def _register(name: str, root: str, split: str, semantic: bool, numbers: dict[str, int]) -> str:
    files = CityscapesSplit(root, split)
    load, metadata = files.panoptic_records, files.panoptic_metadata
    if semantic:
        load, metadata = files.semantic_records, files.semantic_metadata
    return register_once(
        name,
        sources=files.sources(),
        load=files.images_alone if split == TEST else load,
        metadata=lambda: metadata() | (NO_TRUTH if split == TEST else {}),
        **numbers,
    )


class CityscapesSplit:
    """Files and folders of one split.

    Args:
        root, split: as for `cityscapes_panoptic`.
    """

    def __init__(self, root: str, split: str) -> None:
        if split not in (*SPLITS, TEST):
            raise ValueError(
                f"Cityscapes has no split {split!r}: choose from {', '.join((*SPLITS, TEST))}"
            )
        self.layout = Layout("Cityscapes", str(root), "cityscapes")
        inside, base = f"leftImg8bit/{split}", self.layout.base
        archives = (place / "leftImg8bit_trainvaltest.zip" for place in (base, base.parent))
        self.images = folder_or_archived(base / inside, inside, *archives)
        self.labels = self.layout.base / "gtFine" / split
        self.panoptic = self.layout.base / "gtFine" / f"cityscapes_panoptic_{split}"
        self.panoptic_json = self.panoptic.with_name(f"{self.panoptic.name}.json")
        self.prepare = f"run `{script_command('prepare_cityscapes')} {root}`"

    def sources(self) -> list[Path]:
        """The files and folders that the split consists of."""
        cities = [
            top / city
            for top in (self.images, self.labels)
            if is_folder(top)
            for city in list_folder(top)
        ]
        return [self.images, self.labels, *sorted(cities), self.panoptic, self.panoptic_json]

    def require_files(self, *, prepared: bool = True) -> set[str]:
        """Compare images with label files; return `<city>/<id>` of all images.

        Args:
            prepared: train ids must be there, which are in no archive.

        Raises:
            DatasetError: something is missing; names the file and the remedy.
        """
        layout = self.layout
        layout.require_folder(self.images, GET_IMAGES)
        layout.require_folder(self.labels, GET_LABELS)
        images, labels = _city_files(self.images), _city_files(self.labels)
        names = {file.removesuffix(IMAGE) for file in images if file.endswith(IMAGE)}
        if not names:
            raise layout.error(f"no <city>/*{IMAGE} below {self.images}", GET_IMAGES)
        for suffix in (LABEL_IDS, INSTANCES, *([TRAIN_IDS] if prepared else [])):
            remedy = self.prepare if suffix == TRAIN_IDS else GET_LABELS
            layout.require_files({name + suffix for name in names}, labels, self.labels, remedy)
        # The official evaluators evaluate every label below gtFine/<split>.
        labeled = {f.removesuffix(LABEL_IDS) + IMAGE for f in labels if f.endswith(LABEL_IDS)}
        layout.require_files(labeled, images, self.images, GET_IMAGES)
        return names

    def image_names(self) -> list[str]:
        """`<city>/<file>` of all images, in order; none where there is no folder of them."""
        files = _city_files(self.images) if is_folder(self.images) else ()
        return sorted(name for name in files if name.endswith(IMAGE))

    def images_alone(self) -> list[Record]:
        """Detectron2's records of images without ground truth, in the order of file names."""
        self.layout.require_folder(self.images, GET_IMAGES)
        names = self.image_names()
        if not names:
            raise self.layout.error(f"no <city>/*{IMAGE} below {self.images}", GET_IMAGES)
        return [
            {
                "file_name": str(self.images / name),
                "image_id": Path(name).name.removesuffix(IMAGE),
            }
            for name in names
        ]

    def semantic_records(self) -> list[Record]:
        """Check the layout and return records, in the order of file names."""
        return [
            {
                "file_name": str(self.images / (name + IMAGE)),
                "sem_seg_file_name": str(self.labels / (name + TRAIN_IDS)),
            }
            for name in sorted(self.require_files())
        ]

    def panoptic_records(self) -> list[Record]:
        """Check the layout and return what Detectron2's `load_cityscapes_panoptic` returns.

        That function derives the label's path by cutting the image's path at its first dot, which
        breaks below folders such as `~/.cache` or `../data`, and takes hidden files for images.
        """
        layout, made = self.layout, self.panoptic_json
        images = {name.partition("/")[2]: name for name in self.require_files()}
        layout.require_folder(self.panoptic, self.prepare)
        expected, found = {name + PANOPTIC for name in images}, list_files(self.panoptic, PANOPTIC)
        layout.require_files(expected, found, self.panoptic, self.prepare)
        content = layout.read_json(made, self.prepare)
        remedy = f"delete {made.name} and {self.prepare}"
        try:
            return self._records(content, images, remedy)
        except (KeyError, TypeError) as error:
            raise layout.error(f"unknown or missing key {error} in {made}", remedy) from error

    def _records(
        self, content: dict[str, Any], images: dict[str, str], remedy: str
    ) -> list[Record]:
        layout, made = self.layout, self.panoptic_json
        names = {category["id"]: category["name"] for category in CITYSCAPES_CATEGORIES}
        if {category["id"]: category["name"] for category in content["categories"]} != names:
            raise layout.error(
                f"{made} has other categories than Cityscapes' 19 label ids (was it written with "
                "--use-train-id?)",
                remedy,
            )
        listed = {annotation["image_id"] for annotation in content["annotations"]}
        if images.keys() != listed:
            raise layout.error(
                f"{made} lists {len(listed)} images, {self.images} has {len(images)}; the first "
                f"that is only in one of them: {min(images.keys() ^ listed)}",
                remedy,
            )
        train_ids = {category["id"]: category["trainId"] for category in CITYSCAPES_CATEGORIES}
        records = []
        for annotation in content["annotations"]:
            number, segments = annotation["image_id"], annotation["segments_info"]
            label = str(self.panoptic / annotation["file_name"])
            for segment in segments:
                segment["category_id"] = train_ids[segment["category_id"]]
            records.append(
                {
                    "file_name": str(self.images / (images[number] + IMAGE)),
                    "image_id": number,
                    "sem_seg_file_name": str(self.labels / (images[number] + TRAIN_IDS)),
                    "pan_seg_file_name": label,
                    "segments_info": segments,
                }
            )
        return records

    def panoptic_metadata(self) -> dict[str, Any]:
        """For Detectron2's catalog, as are those of `semantic_metadata`."""
        classes = cityscapes_classes()
        return class_metadata(classes) | {
            "panoptic_root": str(self.panoptic),
            "image_root": str(self.images),
            "panoptic_json": str(self.panoptic_json),
            "gt_dir": str(self.labels),
            "evaluator_type": "cityscapes_panoptic_seg",
            "thing_colors": list(classes.colors),  # tuples, as Detectron2's
            "stuff_colors": list(classes.colors),
        }

    def semantic_metadata(self) -> dict[str, Any]:
        """See `panoptic_metadata`."""
        return dict(
            image_dir=str(self.images),
            gt_dir=str(self.labels),
            evaluator_type="cityscapes_sem_seg",
            **_get_builtin_metadata("cityscapes"),
            stuff_colors=[category["color"] for category in CITYSCAPES_CATEGORIES],
        )


def _city_files(folder: Path) -> set[str]:
    """`<city>/<file>` of the files two levels below `folder`, without hidden ones."""
    return {
        f"{city}/{name}"
        for city in list_folder(folder)
        if is_folder(folder / city)
        for name in list_files(folder / city, "")
    }

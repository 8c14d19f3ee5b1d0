"""Archives of datasets as their authors pack them, or of any content, and what unpacking makes."""

import random
import zipfile
from pathlib import Path

from preparation import find_archives, unpack
from scripts.prepare_coco import ARCHIVES as COCO

PREPARED = ("labelTrainIds.png", "gtFine_panoptic.png")


def pack(target: Path, base: Path, files: list[Path], **texts: str) -> Path:
    """Write a .zip with `files` by their path below `base`, their folders, and `texts`."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name.replace("_", ".", 1), text)
        folders = {p for f in files for p in f.relative_to(base).parents if p != Path()}
        for folder in sorted(folders):
            archive.write(base / folder, f"{folder}/")
        for file in files:
            archive.write(file, str(file.relative_to(base)))
    return target


def zip_cityscapes(root: Path, target: Path) -> list[Path]:
    """The two archives of `root/cityscapes`, in the folder `target`; without prepared files."""
    base = root / "cityscapes"
    archives = []
    for folder in ("leftImg8bit", "gtFine"):
        files = [
            file
            for file in sorted((base / folder).rglob("*"))
            if file.is_file()
            and not file.name.endswith(PREPARED)
            and not file.name.startswith("cityscapes_panoptic")
        ]
        name = f"{folder}_trainvaltest.zip"
        archives.append(pack(target / name, base, files, README=f"{folder}", license_txt="no"))
    return archives


def zip_coco(root: Path, target: Path) -> list[Path]:
    """The four archives of `root/coco`, in the folder `target`."""
    base, archives = root / "coco", []
    for split in ("train2017", "val2017"):
        files = sorted((base / split).glob("*.jpg"))
        archives.append(pack(target / f"{split}.zip", base, files))
    annotations = base / "annotations"
    files = sorted(annotations.glob("instances_*.json"))
    archives.append(pack(target / "annotations_trainval2017.zip", base, files))
    inner = []
    for split in ("train2017", "val2017"):
        folder = base / f"panoptic_{split}"
        files = sorted(folder.glob("*.png"))
        inner.append(pack(annotations / f"panoptic_{split}.zip", base, files))
        with zipfile.ZipFile(inner[-1], "a") as archive:
            archive.writestr(f"__MACOSX/panoptic_{split}/._{files[0].name}", "of a Mac")
    files = [*sorted(annotations.glob("panoptic_*.json")), *inner]
    archives.append(pack(target / "panoptic_annotations_trainval2017.zip", base, files))
    for file in inner:
        file.unlink()
    return archives


IMAGE = "val2017/{:012d}.jpg"


def quiet(line: str) -> None:
    pass


def write(
    path: Path, *members: tuple[str, bytes], mode: int = 0, method: int = zipfile.ZIP_DEFLATED
) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            info = zipfile.ZipInfo(name)
            info.compress_type, info.external_attr = method, mode << 16
            archive.writestr(info, data)
    return path


def images(count: int, size: int = 2000) -> list[tuple[str, bytes]]:
    return [(IMAGE.format(i), random.Random(i).randbytes(size + i)) for i in range(count)]


def run(folder: Path, num_workers: int = 1, say=quiet) -> None:
    found = find_archives([folder], COCO, say)
    unpack(found, folder / "coco", num_workers=num_workers, say=say)


def tree(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def files_below(folder: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }

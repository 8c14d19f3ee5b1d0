"""Archives like COCO's, of any content, and what comes of unpacking them."""

import random
import zipfile
from pathlib import Path

from panoptic_dl.datasets.prepare.archives import COCO, find_archives, unpack

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

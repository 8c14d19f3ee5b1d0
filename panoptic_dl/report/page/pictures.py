"""The gallery: the same validation images for every run, as small JPEGs inside the page."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from panoptic_dl.image_files import no_truncated_images
from panoptic_dl.report.runs.run import Run
from panoptic_dl.report.tables.build import Table

from .learning import runs_of

FOLDER = Path("pictures", "gallery")
KINDS = ("image", "truth", "prediction")
MOST_PIXELS = 40_000_000  # of a picture; ours have 640 x 640 at most


@dataclass(frozen=True)
class Example:
    """One validation image, and what each run says of it; pictures are `data:` addresses."""

    name: str
    image: str
    truth: str
    predictions: Sequence[tuple[str, str]]  # label of the run, picture
    width: int
    height: int


@dataclass(frozen=True)
class Gallery:
    """The examples of one dataset."""

    title: str
    examples: Sequence[Example]
    more: int  # images that are not shown


def galleries(
    tables: Sequence[Table], *, longest: int, quality: int, most: int
) -> tuple[list[Gallery], list[str]]:
    """The pictures of all runs of `tables`, and a remark for each that cannot be read.

    Args:
        longest: pixels of a picture's longer side.
        quality: of JPEG.
        most: images of a dataset; 0 for no pictures at all.
    """
    remarks: list[str] = []
    found = []
    by_dataset: dict[str, list[Run]] = {}
    for table in tables:
        for run in runs_of(table):
            if run.finished and (run.folder / FOLDER).is_dir():
                by_dataset.setdefault(str(run.results.get("dataset") or table.title), []).append(
                    run
                )
    for dataset, runs in by_dataset.items() if most else ():
        names = dict.fromkeys(name for run in runs for name in _names(run.folder / FOLDER))
        examples = []
        for name in list(names)[:most]:
            example = _example(name, runs, longest, quality, remarks)
            examples += [example] if example else []
        if examples:
            found.append(Gallery(dataset, examples, max(0, len(names) - most)))
    return found, remarks


def _names(folder: Path) -> list[str]:
    return sorted(f.name.removesuffix("_image.jpg") for f in folder.glob("*_image.jpg"))


def _example(
    name: str, runs: Sequence[Run], longest: int, quality: int, remarks: list[str]
) -> Example | None:
    size = (0, 0)
    shared: dict[str, str] = {}
    predictions = []
    for run in runs:
        for kind in KINDS:
            if kind in shared:
                continue
            file = run.folder / FOLDER / f"{name}_{kind}.jpg"
            if not file.is_file():
                continue
            try:
                address, size = _address(file, longest, quality)
            except (OSError, ValueError, Image.DecompressionBombError) as error:
                reason = str(error).replace(str(file), file.name)
                remarks.append(f"{run.label}: {file.name} cannot be shown ({reason})")
                continue
            if kind == "prediction":
                predictions.append((run.label, address))
            else:
                shared[kind] = address
    if "image" not in shared or not predictions:
        return None
    return Example(name, shared["image"], shared.get("truth", ""), predictions, *size)


def _address(file: Path, longest: int, quality: int) -> tuple[str, tuple[int, int]]:
    """A picture as a `data:` address, and its (width, height)."""
    with no_truncated_images(), Image.open(file, formats=["JPEG"]) as picture:
        if picture.width * picture.height > MOST_PIXELS:
            raise ValueError(f"it has {picture.width} x {picture.height} pixels")
        small = picture.convert("RGB")
    small.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}", small.size

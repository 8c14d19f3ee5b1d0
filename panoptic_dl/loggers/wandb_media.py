"""Evaluations as Weights & Biases shows them: images with masks, tables of classes, charts.

K classes.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb

from panoptic_dl.report.results import Table, class_tables
from panoptic_dl.visualize.samples import Sample

from .interface import Confusions, Details

VOID = 255  # in masks, which are bytes
MOST_CELLS = 10_000  # of a confusion matrix: W&B draws no more rows of a table
BARS = ("PQ", "IoU")  # measures drawn as bars of the classes


def media(details: Details, *, pictures: bool) -> dict[str, Any]:
    """What is logged of an evaluation beside its figures, by W&B's names.

    Args:
        pictures: images and charts, too, not only tables.
    """
    found: dict[str, Any] = {}
    for table in class_tables(details.results):
        as_wandb = _table(table)
        found[f"classes/{_name(table.title)}"] = as_wandb
        for measure in set(BARS) & set(table.columns) if pictures else ():
            title = f"{measure} by {table.title.rpartition(' ')[2]}"
            bars = wandb.plot.bar(_table(table), "name", measure, title=title)
            found[f"charts/{_name(title)}"] = bars
    if not pictures:
        return found
    if details.samples:
        found["images/validation"] = [image(s, details.class_names) for s in details.samples]
    if details.confusions is not None:
        found["charts/confusions"] = confusion_chart(details.confusions)
    for file in details.pictures:
        found[f"pictures/{file.stem}"] = picture(file)
    return found


def picture(file: Path) -> Any:
    """A `wandb.Image` of a file."""
    return wandb.Image(str(file), caption=file.name)


def image(sample: Sample, names: Sequence[str]) -> Any:
    """A `wandb.Image` with the masks `ground_truth` and `prediction`.

    Masks are bytes: with more than 255 classes there are none.
    """
    masks = None
    if len(names) <= VOID:
        labels = dict(enumerate(names)) | {VOID: "void"}
        masks = {
            kind: {"mask_data": _bytes(classes), "class_labels": labels}
            for kind, classes in (("ground_truth", sample.truth), ("prediction", sample.prediction))
        }
    return wandb.Image(sample.image, caption=sample.name, masks=masks, file_type="jpg")


def confusion_chart(confusions: Confusions) -> Any:
    """W&B's chart of a confusion matrix, in pixels; of large ones the largest cells."""
    columns = [*confusions.names, "none"]
    counts = confusions.counts
    cells = [(int(n), row, column) for (row, column), n in np.ndenumerate(counts)]
    if len(cells) > MOST_CELLS:
        cells = sorted(sorted(cells, reverse=True)[:MOST_CELLS], key=lambda cell: cell[1:])
    rows = [[confusions.names[row], columns[column], n] for n, row, column in cells]
    names: list[str | int] = ["Actual", "Predicted", "nPredictions"]
    return wandb.plot_table(
        vega_spec_name="wandb/confusion_matrix/v1",
        data_table=wandb.Table(columns=names, data=rows),
        fields={str(name): str(name) for name in names},
        string_fields={"title": "Confusions, in pixels"},
    )


def modules_table(modules: Sequence[tuple[str, str, int, int]]) -> Any:
    """The network's parts and their parameters."""
    columns: list[str | int] = ["module", "class", "parameters", "trained"]
    return wandb.Table(columns=columns, data=[list(row) for row in modules])


def checkpoint_artifact(name: str, file: Path, iteration: int) -> Any:
    """A checkpoint as an artifact; the file is copied at once, for the run may remove it."""
    artifact = wandb.Artifact(name, type="model", metadata={"iteration": iteration})
    artifact.add_file(str(file), name="model.pth")
    return artifact


def _table(table: Table) -> Any:
    data = [
        [name, *(value if math.isfinite(value) else None for value in values)]
        for name, values in table.rows
    ]
    return wandb.Table(columns=["name", *table.columns], data=data)


def _name(title: str) -> str:
    return title.replace(" ", "_")


def _bytes(classes: np.ndarray) -> np.ndarray:
    return np.where(classes < 0, VOID, classes).astype(np.uint8)

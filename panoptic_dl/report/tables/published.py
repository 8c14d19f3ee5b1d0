"""The published rows, from the experiments that reproduce them: `conf/experiment/*.yaml`."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONF = Path(__file__).parents[3] / "conf"
VAL_IMAGES = {"cityscapes": 500, "coco": 5000}  # that published figures were measured on
GROUPS = ("dataset", "task", "backbone", "head")


@dataclass(frozen=True)
class PublishedRow:
    """A row of a published table, and the training that its figures belong to."""

    experiment: str
    dataset: str
    task: str
    backbone: str
    head: str
    figures: Mapping[str, float]  # percent
    iterations: int
    batch_size: int
    num_images: int | None  # of the validation split; None: not known
    recipe: str  # whose figures they are, of several
    other_recipes: tuple[str, ...] = ()  # that are held against the same figures, with a note

    @property
    def row(self) -> str:
        return "_".join(getattr(self, group) for group in GROUPS)

    @property
    def table(self) -> tuple[str, str, str]:
        """Which of the published tables has it."""
        return self.dataset, self.task, self.head

    @property
    def main(self) -> str:
        """The figure that a verdict is about."""
        return "PQ" if self.task == "panoptic" else "mIoU"


def published_rows(conf: Path = CONF) -> list[PublishedRow]:
    """All rows with published figures, in the order of the published tables.

    Raises:
        ValueError: an experiment cannot be read; the message names the file.
    """
    rows = []
    for file in sorted((conf / "experiment").glob("*.yaml")):
        experiment = _read(file)
        if experiment.get("published") and experiment.get("published_row"):
            rows.append(_row(file, experiment, conf / "recipe"))
    # Xception-65 stands first in each published table, Cityscapes' panoptic ones before COCO's.
    return sorted(
        rows,
        key=lambda row: (row.task != "panoptic", row.dataset, row.head, row.backbone[0] != "x"),
    )


def _row(file: Path, experiment: Mapping[str, Any], recipes: Path) -> PublishedRow:
    chosen = {}
    for default in experiment.get("defaults", ()):
        if isinstance(default, dict):
            for key, option in default.items():
                chosen[key.removeprefix("override ").strip("/ ")] = str(option)
    missing = [group for group in GROUPS if group not in chosen]
    if missing:
        raise ValueError(f"{file.name}: its defaults choose no {' and no '.join(missing)}")
    usual = f"{chosen['dataset']}_{chosen['task']}"
    record = _read(recipes / f"{usual}.yaml")["recipe_record"]
    # Where a dataset's recipe was corrected later, the figures are of the old one.
    old = f"{usual}_old"
    has_old = (recipes / f"{old}.yaml").is_file()
    return PublishedRow(
        experiment=file.stem,
        **{group: chosen[group] for group in GROUPS},
        figures={name: float(value) for name, value in experiment["published"].items()},
        iterations=int(record["iterations"]),
        batch_size=int(record["batch_size"]),
        num_images=VAL_IMAGES.get(chosen["dataset"]),
        recipe=old if has_old else usual,
        other_recipes=(usual,) if has_old else (),
    )


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds no experiment or recipe")
    return content

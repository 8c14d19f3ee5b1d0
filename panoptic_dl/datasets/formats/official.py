"""What readers of datasets with official folders share."""

import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from panoptic_dl.datasets.registry import Layout, list_files


def official_layout(title: str, root: str | Path, folder: str) -> Layout:
    """The layout of a dataset whose `folder` lies in `root`, or is `root`."""
    layout = Layout(title, str(root), folder)
    return layout if layout.base.is_dir() else Layout(title, str(root))


def how_to_get(name: str) -> str:
    """The remedy for missing files of the dataset `name`."""
    return f"`python scripts/prepare_dataset.py {name} ROOT` says what to download and unpacks it"


def read_table(name: str) -> list[dict[str, Any]]:
    """The categories of a dataset, by the official definition, in the order of their ids."""
    file = resources.files("panoptic_dl.datasets") / "assets" / f"{name}.json"
    table: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))
    return table


def paired_files(
    layout: Layout, name: str, folders: Sequence[str], splits: Mapping[str, str]
) -> dict[str, list[tuple[Path, ...]]]:
    """The images of each split, each with its labels, which have its name.

    Args:
        name: of the dataset, for messages.
        folders: of the images (.jpg) and of each kind of label (.png); {} stands for the split's.
        splits: names of the splits, and of their folders. Those without labels are left out.

    Raises:
        DatasetError: no split is there, or an image or label of one is missing.
    """
    found: dict[str, list[tuple[Path, ...]]] = {}
    there = [
        s for s, folder in splits.items() if (layout.base / folders[1].format(folder)).is_dir()
    ]
    for split in there or list(splits)[:1]:
        places = [layout.base / place.format(splits[split]) for place in folders]
        for place in places:
            layout.require_folder(place, how_to_get(name))
        suffixes = [".jpg"] + [".png"] * (len(places) - 1)
        listed = [list_files(*each) for each in zip(places, suffixes, strict=True)]
        stems = {file.rpartition(".")[0] for files in listed for file in files}
        for place, suffix, files in zip(places, suffixes, listed, strict=True):
            layout.require_files({s + suffix for s in stems}, files, place, how_to_get(name))
        found[split] = [
            tuple(place / (stem + suffix) for place, suffix in zip(places, suffixes, strict=True))
            for stem in sorted(stems)
        ]
    return found

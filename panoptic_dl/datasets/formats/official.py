"""What readers of datasets with official folders share."""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

from panoptic_dl.core.files import script_command
from panoptic_dl.datasets.formats.base import Label, Sample
from panoptic_dl.datasets.registry import Layout, list_files


def official_layout(title: str, root: str | Path, folder: str) -> Layout:
    """The layout of a dataset whose `folder` lies in `root`, or ends there."""
    parts = folder.split("/")
    tried = (Layout(title, str(root), "/".join(parts[i:])) for i in range(len(parts)))
    return next((each for each in tried if each.base.is_dir()), Layout(title, str(root)))


def how_to_get(name: str) -> str:
    """The remedy for missing files of the dataset `name`."""
    command = script_command("prepare_dataset")
    return f"`{command} {name} ROOT` says what to download and unpacks it"


def read_table(name: str) -> list[dict[str, Any]]:
    """The categories of a dataset, by the official definition, in the order of their ids."""
    file = resources.files("panoptic_dl.datasets") / "assets" / f"{name}.json"
    return json.loads(file.read_text(encoding="utf-8"))


def paired_splits(
    layout: Layout,
    name: str,
    files: Sequence[str],
    splits: Mapping[str, str],
    read: Callable[..., Label],
) -> dict[str, list[Sample]]:
    """The images of each split, with their labels, which have the same names.

    Args:
        name: of the dataset, for messages.
        files: patterns of the images and of each kind of label; {} stands for the split's folder.
        splits: names of the splits, and of their folders. Those without labels are left out.
        read: reads the labels of an image.

    Raises:
        DatasetError: no split is there, or an image or label of one is missing.
    """
    found: dict[str, list[Sample]] = {}
    there = [s for s in splits if (layout.base / files[1].format(splits[s])).parent.is_dir()]
    for split in there or list(splits)[:1]:
        places = [layout.base / pattern.format(splits[split]) for pattern in files]
        for place in places:
            layout.require_folder(place.parent, how_to_get(name))
        listed = [{Path(n).stem for n in list_files(p.parent, p.suffix)} for p in places]
        stems = sorted(set().union(*listed))
        for place, own in zip(places, listed, strict=True):
            names, having = ([s + place.suffix for s in each] for each in (stems, own))
            layout.require_files(names, having, place.parent, how_to_get(name))
        for stem in stems:
            image, *labels = (place.with_name(stem + place.suffix) for place in places)
            found.setdefault(split, []).append(Sample(image, partial(read, *labels)))
    return found

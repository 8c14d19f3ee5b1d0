"""Whether a split can be registered at all: what its catalog function says."""

import os
from collections import Counter
from pathlib import Path

from ..patient import Patient
from ..verdicts import Verdict, ok, warn
from .split import Split


def look_at_layout(title: str, patient: Patient) -> Verdict:
    """Register the split, as every run does; its errors name files and remedies."""
    split = Split(title, patient.part(title))
    count = len(split.records)
    patient.splits[title] = split
    extra = _unlisted(split)
    if extra:
        example, *_ = sorted(extra)
        return warn(
            f"{split.name}: {count:,} images; {len(extra):,} more in {_folder(split)} are not in "
            f"the dataset, such as {example}",
            f"nothing, if only a part is meant; else a complete {split.panoptic_json}",
        )
    return ok(f"{split.name}: {count:,} images")


def _folder(split: Split) -> Path:
    return Path(split.records[0]["file_name"]).parent


def _unlisted(split: Split) -> set[str]:
    """Images beside those of the dataset, where all of these lie in one folder."""
    names = [os.path.split(record["file_name"]) for record in split.records]
    folders = Counter(folder for folder, _ in names)
    if len(folders) > 1:
        return set()
    suffixes = {os.path.splitext(name)[1] for _, name in names}
    with os.scandir(next(iter(folders)) or ".") as entries:
        there = {e.name for e in entries if os.path.splitext(e.name)[1] in suffixes}
    return there - {name for _, name in names}

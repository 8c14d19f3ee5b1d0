"""Images that are there twice: in both splits, or in one."""

import contextlib
from collections import defaultdict
from pathlib import Path

from ..patient import Patient
from ..verdicts import Verdict, judge
from .opening import digest_of

CURE = "take them out of one of the splits, unless a trial on training images is meant"


def look_for_overlap(patient: Patient) -> Verdict:
    """The same bytes under two names; names that both splits have are compared in any case."""
    files: dict[bytes, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    count = 0
    for title, split in patient.splits.items():
        for name, digest in {r.file_name: r.digest for r in split.reports}.items():
            if digest is not None:
                files[digest][title].append(name)
                count += 1
    for title, name, digest in _same_names(patient):
        if name not in files[digest][title]:
            files[digest][title].append(name)
    warnings = []
    for of_digest in files.values():
        names = [(title, name) for title, found in of_digest.items() for name in found]
        if len(names) > 1:
            first, *others = (f"{name} ({title})" for title, name in names)
            warnings.append(f"{first} is the same image as {', '.join(others)}")
    return judge(f"none among {count:,} images", "images are there twice", CURE, [], warnings)


def _same_names(patient: Patient) -> list[tuple[str, str, bytes]]:
    """Digests of images that a sample may have left out, but whose name is in both splits."""
    by_name: list[dict[str, str]] = []
    titles = list(patient.splits)
    for split in patient.splits.values():
        by_name.append({Path(r["file_name"]).name: r["file_name"] for r in split.records})
    shared = set.intersection(*(set(names) for names in by_name))
    found = []
    for title, names in zip(titles, by_name, strict=True):
        known = {report.file_name for report in patient.splits[title].reports}
        for name in sorted(shared)[: patient.settings.sample]:
            if names[name] not in known:
                with contextlib.suppress(OSError):  # not opened, so not this row's business
                    data = Path(names[name]).read_bytes()
                    found.append((title, names[name], digest_of(data)))
    return found

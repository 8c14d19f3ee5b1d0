"""Find the runs below folders: sweeps, single runs, or folders of both."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .fields import Fields, printable, read_json
from .read import read_run
from .run import Planned, Run, Unreadable

# What runs leave behind; a folder with one of these and no run.json is a run that cannot be told.
LEFTOVERS = ("results.json", "metrics.json")


@dataclass(frozen=True)
class Collected:
    """All that was found: nothing below the folders is left out without being named here."""

    runs: Sequence[Run]
    unreadable: Sequence[Unreadable]
    planned: Sequence[Planned]


def collect(folders: Sequence[Path]) -> Collected:
    """Read every run below `folders`, each once.

    Raises:
        ValueError: a folder does not exist, or none of them holds anything of a run.
    """
    runs: list[Run] = []
    unreadable: list[Unreadable] = []
    planned: list[Planned] = []
    seen: set[str] = set()
    labels: set[str] = set()
    for root in folders:
        if not root.is_dir():
            raise ValueError(f"{root} is no folder: name one that holds runs, such as outputs")
        closed: list[OSError] = []
        for folder, files in _folders(root, seen, closed):
            label = _unused(_label(root, folder, several=len(folders) > 1), labels)
            if "sweep.json" in files:
                rows = _planned(root, folder, label, several=len(folders) > 1)
                planned += rows if isinstance(rows, list) else []
                unreadable += [rows] if isinstance(rows, Unreadable) else []
            if "run.json" in files:
                try:
                    runs.append(read_run(folder, label))
                except (ValueError, OSError) as error:
                    unreadable.append(Unreadable(label, _reason(error)))
            elif any(name in files for name in LEFTOVERS):
                unreadable.append(Unreadable(label, _without_record(folder)))
        for refused in closed:
            label = _label(root, Path(str(refused.filename)), several=len(folders) > 1)
            unreadable.append(Unreadable(label, f"its folder: {refused.strerror}"))
    if not (runs or unreadable or planned):
        raise ValueError(
            f"no run.json below {', '.join(map(str, folders))}: name run folders, a sweep's "
            "folder, or one that holds them, such as outputs"
        )
    return Collected(runs, unreadable, planned)


def _without_record(folder: Path) -> str:
    if folder.name == "fast_dev_run":
        return "a trial (train.fast_dev_run=true) is no result"
    return "it has no run.json: an older version of panoptic-dl made it"


def _folders(
    root: Path, seen: set[str], closed: list[OSError]
) -> Iterator[tuple[Path, Sequence[str]]]:
    """Folders below `root` with the names of their files, in order; each folder once.

    Those that may not be opened go into `closed`.
    """
    for name, below, files in os.walk(root, followlinks=True, onerror=closed.append):
        real = os.path.realpath(name)
        if real in seen:  # given twice, or a link that leads back
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(each for each in below if not each.startswith("."))
        # A trial's folder lies inside its run's and says itself that it is none.
        if "run.json" in files:
            below[:] = [each for each in below if each not in ("pictures", "fast_dev_run")]
        yield Path(name), files


def _label(root: Path, folder: Path, *, several: bool) -> str:
    """The folder as seen from the given one, or from outside it: no path of this machine."""
    below, name = folder.relative_to(root), root.resolve().name
    return printable(str(below) if not several and below.parts else str(Path(name, below)))


def _unused(label: str, labels: set[str]) -> str:
    """The label, with a number where another folder of that name was found elsewhere."""
    number, wanted = 1, label
    while wanted in labels:
        number += 1
        wanted = f"{label} ({number})"
    labels.add(wanted)
    return wanted


def _planned(
    root: Path, folder: Path, label: str, *, several: bool
) -> "list[Planned] | Unreadable":
    """The rows of a sweep without a run.json."""
    try:
        plan = Fields(read_json(folder / "sweep.json"), "sweep.json")
        name = plan.text("name") or label
        found = []
        for row in plan.objects("rows"):
            own = row.text("folder", required=True)
            if not (folder / own / "run.json").exists():
                shown = _label(root, folder / own, several=several)
                found.append(Planned(shown, name, row.texts("overrides")))
        return found
    except (ValueError, OSError) as error:
        return Unreadable(label, _reason(error))


def _reason(error: Exception) -> str:
    """Without a path of this machine: the folder's label stands beside."""
    if isinstance(error, OSError):
        return f"{Path(error.filename or 'a file').name}: {error.strerror or error}"
    return str(error)

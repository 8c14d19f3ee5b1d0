"""What differs between the configs of a table's runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from panoptic_dl.report.tables.build import Table

COPIES = ("task", "mode")  # hold resolved copies of other keys
MOST = 80  # keys of a table
UNSAID = (  # last parts of keys: names, folders, seeds, and what is printed, drawn and saved
    *("seed", "run_dir", "resume", "name", "row", "sweep_dir", "published_note", "published_row"),
    *("num_workers", "log_period", "activation_checkpointing", "max_nonfinite_skips"),
    *("per_class", "official", "num_threads", "save", "picture_count", "best_and_worst", "charts"),
)
LONGEST = 60  # letters of a value


@dataclass(frozen=True)
class Differences:
    """A row for each key whose value is not the same in all runs."""

    title: str
    runs: Sequence[str]
    rows: Sequence[tuple[str, Sequence[str]]]
    more: int  # keys that are not shown


def differences(tables: Sequence[Table]) -> list[Differences]:
    """Of tables with at least two experiments whose configs could be read."""
    found = []
    for table in tables:
        runs = [line.group.first for line in table.lines if line.group]
        runs = [run for run in runs if run.settings]
        if len(runs) > 1:
            rows = differing([run.settings for run in runs])
            if rows:
                labels = [run.label for run in runs]
                shown = [(key, [_short(v) for v in values]) for key, values in rows[:MOST]]
                found.append(Differences(table.title, labels, shown, max(0, len(rows) - MOST)))
    return found


def differing(settings: Sequence[Mapping[str, str]]) -> list[tuple[str, tuple[str, ...]]]:
    """Keys with different values, and the values; "" where a config has no such key.

    Keys of `task` and `mode` that repeat the values of another key of the same name are left out,
    as are names and folders.
    """
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [(key, tuple(each.get(key, "") for each in settings)) for key in keys]
    rows = [
        (key, values)
        for key, values in rows
        if len(set(values)) > 1 and (key == "seed" or _last(key) not in UNSAID)
    ]
    originals = {(_last(key), values) for key, values in rows if _first(key) not in COPIES}
    return [
        (key, values)
        for key, values in rows
        if _first(key) not in COPIES or (_last(key), values) not in originals
    ]


def _first(key: str) -> str:
    return key.partition(".")[0]


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"

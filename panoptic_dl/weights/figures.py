"""The figures that were measured with the very weights that are exported, or none."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import WeightsError
from .printable import printable
from .provenance import LONGEST_METRICS
from .run_folder import MANIFEST

RESULTS, AVERAGE_RESULTS = "results.json", "ema/results.json"
AVERAGE = "ema/"  # begins the names of the average's figures beside those of the raw weights


def figures(run: Path, name: str, sha256: str) -> str:
    """JSON of the figures of a checkpoint's raw weights; "" where it was not evaluated.

    They are those that the run noted for a file of these contents: `model_final.pth` is a second
    name of the newest numbered checkpoint, and the evaluation may have been noted for that one.

    Raises:
        WeightsError: the manifest is damaged, or the file is not the one that the run wrote.
    """
    files = _read(run / MANIFEST).get("files", {})
    if not isinstance(files, Mapping) or not all(isinstance(e, Mapping) for e in files.values()):
        raise _damaged(run / MANIFEST, "no list of files")
    written = files.get(name, {}).get("sha256", sha256)
    if written != sha256:
        raise WeightsError(
            f"{run / name} is not the file that the run wrote (SHA-256 differs from "
            f"{MANIFEST}); take another with --checkpoint"
        )
    if "no_result" in _read(run / RESULTS):  # a trial of a few images
        return ""
    same = [files.get(name, {}), *(e for e in files.values() if e.get("sha256") == sha256)]
    found: Any = next((entry["figures"] for entry in same if "figures" in entry), {})
    return _text(run / MANIFEST, found)


def figures_of_average(run: Path, iteration: int) -> str:
    """JSON of the figures of the moving average after so many iterations; "" where there are none.

    `model_ema.pth` does not say of which iteration it is and so has none: the same weights lie in
    `model_final.pth`, with --ema.

    Args:
        iteration: finished iterations; -1: not known.

    Raises:
        WeightsError: the results are damaged.
    """
    summary = _read(run / AVERAGE_RESULTS)
    measured = summary.get("measured")
    at = measured.get("iteration") if isinstance(measured, Mapping) else None
    if type(at) is not int or at != iteration or iteration < 0 or "no_result" in summary:
        return ""
    return _text(run / AVERAGE_RESULTS, summary.get("metrics"))


def _text(file: Path, found: Any) -> str:
    if not isinstance(found, Mapping):
        raise _damaged(file, "its figures are no table")
    kept = {}
    for name, value in found.items():
        if value is None or str(name).startswith(AVERAGE):
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise _damaged(file, f"{printable(name)} is no number")
        if math.isfinite(value):  # a figure that is not defined is none
            kept[printable(name)] = round(value, 2)
    text = json.dumps(kept) if kept else ""
    while len(text) > LONGEST_METRICS:  # what a reader would cut is no JSON any more
        kept.popitem()
        text = json.dumps(kept)
    return text


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
    except (ValueError, RecursionError) as error:
        raise _damaged(file, printable(str(error) or "nested too deeply")) from error
    if not isinstance(content, dict):
        raise _damaged(file, "no table")
    return content


def _damaged(file: Path, why: str) -> WeightsError:
    return WeightsError(f"{file} is damaged ({why}); evaluate the run again, or remove it")

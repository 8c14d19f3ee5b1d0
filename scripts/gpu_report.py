"""Tables of the documentation from results of a GPU: `make gpu-report`.

`make gpu-report ARGS=DIR` takes DIR/results.jsonl of `scripts/gpu_check.py`, keeps it as
docs/gpu_results.jsonl, and writes what it says between the markers `<!-- gpu -->` of both pages.
Without a folder it is the kept file; where there is none, the pages say that no GPU was at hand.
"""

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path, write_text
from panoptic_dl.report.benchmark import combined_table
from panoptic_dl.report.text import markdown_table

DOCS = Path(__file__).resolve().parents[1] / "docs"
KEPT = DOCS / "gpu_results.jsonl"
NO_GPU = (
    "No NVIDIA GPU was at hand, so this table is empty. To fill it, run `python "
    "scripts/gpu_check.py --minutes 9 --out DIR` on a machine with a GPU, then `make gpu-report "
    "ARGS=DIR`."
)
BLOCK = re.compile(r"(<!-- gpu -->\n).*?(<!-- /gpu -->)", re.DOTALL)
Results = Mapping[str, Mapping[str, Any]]


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The last line of each stage, by its name; ValueError where a line is no result of a GPU."""
    stages: dict[str, dict[str, Any]] = {}
    for number, text in enumerate(file.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            stages[line["stage"]] = line
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{file}: line {number} is none of scripts/gpu_check.py") from None
        if line.get("device") != "cuda":
            raise ValueError(f"{file}: line {number} is a rehearsal without a GPU, no result")
    return stages


def speed(stages: Results) -> str:
    """What explanation/speed.md says: the card, the stages, inference, post-processing."""
    found = stages.get("environment", {}).get("result") or {}
    parts = [f"{found.get('machine', 'an unknown card')} ({found.get('nvidia_smi', '')})".strip()]
    rows = [
        [name, line["status"], f"{line['seconds']:.0f}", _summary(name, line.get("result") or {})]
        for name, line in stages.items()
    ]
    parts.append(markdown_table(["stage", "ended", "seconds", "found"], rows, "llrl"))
    for name, line in stages.items():
        result: Any = line.get("result")
        if name.startswith("inference_") and result:
            parts.append(combined_table(result))
        elif name.startswith("postprocess") and result:
            parts.append(_table(result["rows"]))
    return "\n\n".join(parts)


def training(stages: Results) -> str:
    """What how-to/training_options.md says: time, memory and waits of training steps."""
    lines = [
        line
        for name in ("training", "compile_warm", "mapper")
        for line in (stages.get(name, {}).get("result") or {}).get("lines", ())
    ]
    machine = (stages.get("environment", {}).get("result") or {}).get("machine", "")
    if not lines:
        return f"{machine}: no training step was timed."
    return f"{machine}; crops of 512 x 1024 pixels\n\n{_table(lines)}"


def _summary(name: str, result: Mapping[str, Any]) -> str:
    """What a stage without a table of its own has found, in a line."""
    if name == "evaluation" and result:
        metrics: Mapping[str, Mapping[str, float]] = result["metrics"]
        return ", ".join(f"{key}: PQ {of.get('PQ', 'none')}" for key, of in metrics.items())
    if name == "compile_cold" and result:
        return f"first step {result['lines'][0]['first s']:.0f} s"
    if name == "environment" and result:
        return f"{len(result['missing'])} modules cannot be imported"
    if name in ("resume", "sync_batch_norm", "out_of_memory"):
        return ", ".join(f"{key} {value}" for key, value in result.items() if key != "said")
    return ""


def _table(lines: Sequence[Mapping[str, Any]]) -> str:
    headings = list(dict.fromkeys(key for line in lines for key in line))
    rows = [[_text(line.get(key)) for key in headings] for line in lines]
    return markdown_table(headings, rows)


def _text(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def write(stages: Results | None) -> None:
    """Write both pages."""
    for name, make in (("explanation/speed.md", speed), ("how-to/training_options.md", training)):
        text = NO_GPU if stages is None else make(stages)
        page = (DOCS / name).read_text()
        if not BLOCK.search(page):
            raise ValueError(f"docs/{name} has no <!-- gpu --> to write into")
        write_text(DOCS / name, BLOCK.sub(lambda match: f"{match[1]}{text}\n{match[2]}", page))  # noqa: B023


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=local_path, nargs="?", help="of scripts/gpu_check.py")
    folder = parser.parse_args().folder
    if folder is not None:
        text = (folder / "results.jsonl").read_text()
        read(folder / "results.jsonl")
        write_text(KEPT, text)
    write(read(KEPT) if KEPT.is_file() else None)


if __name__ == "__main__":
    main()

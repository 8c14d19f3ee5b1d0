"""The command `panoptic-dl`: a run, or by its name a program of `scripts/`."""

import os
import re
import runpy
import sys

from panoptic_dl.core.errors import begin_program, one_line_errors
from panoptic_dl.core.files import ROOT
from panoptic_dl.core.settings import GROUPS


def options_of(line: str) -> list[str]:
    """What completes a command line that ends in `group=` of the project's own configs.

    Without Hydra, whose imports alone take longer than somebody who presses TAB waits; of all other
    lines, and where a folder is given or none of its own, nothing: Hydra completes them.
    """
    group, equals, start = line.rpartition(" ")[2].partition("=")
    folders = [ROOT / name / group for name in ("conf", "lazy_configs")]
    if not equals or "config-dir" in line or "searchpath" in line or group.startswith("hydra"):
        return []
    files = [file for folder in folders for file in folder.glob("[!_.]*.*")]
    names = {file.stem for file in files if file.suffix in (".py", ".yaml")}
    if group in GROUPS:
        names.add("local" if group == "launch" else "default")
    return sorted(f"{group}={name}" for name in names if name.startswith(start))


def main() -> None:
    """`panoptic-dl mode=eval ...` is a run, `panoptic-dl prepare-coco ...` is a script."""
    begin_program()  # before the imports that take seconds
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    script = ROOT / "scripts" / f"{name.replace('-', '_')}.py"
    with one_line_errors():
        if sys.argv[1:2] == ["-sc"] and (found := options_of(os.environ.get("COMP_LINE", ""))):
            print(*found, sep="\n")
            return
        if re.fullmatch(r"[a-z][a-z0-9-]*", name) and script.is_file():
            sys.argv[:2] = [str(script)]
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
            return
        from panoptic_dl.run import main as run

        run()


if __name__ == "__main__":
    main()

"""The command `panoptic-dl`: a run, or by its name a program of `scripts/`."""

import re
import runpy
import sys

from panoptic_dl.core.errors import begin_program, one_line_errors
from panoptic_dl.core.files import ROOT


def main() -> None:
    """`panoptic-dl mode=eval ...` is a run, `panoptic-dl prepare-coco ...` is a script."""
    begin_program()  # before the imports that take seconds
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    script = ROOT / "scripts" / f"{name.replace('-', '_')}.py"
    with one_line_errors():
        if re.fullmatch(r"[a-z][a-z0-9-]*", name) and script.is_file():
            sys.argv[:2] = [str(script)]
            sys.path.insert(0, str(script.parent))
            runpy.run_path(str(script), run_name="__main__")
            return
        from panoptic_dl.run import main as run

        run()


if __name__ == "__main__":
    main()

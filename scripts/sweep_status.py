"""The status of each row of sweeps: finished, running, failed, stopped, killed, waiting.

python scripts/sweep_status.py outputs/sweeps/toy
"""

import argparse
import json

from panoptic_dl.core.errors import one_line_errors
from panoptic_dl.core.files import local_path, visible
from panoptic_dl.sweeps.status import BAD, rows, status_text


@one_line_errors()
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweeps", nargs="+", type=local_path, help="folders of sweeps")
    parser.add_argument("--json", action="store_true", help="for programs")
    arguments = parser.parse_args()
    found = {sweep: rows(sweep) for sweep in arguments.sweeps}
    if arguments.json:
        everything = [row for each in found.values() for row in each]
        print(json.dumps(everything, indent=2, allow_nan=False))
    else:
        text = "\n\n".join(f"{sweep}\n{status_text(each)}" for sweep, each in found.items())
        print(visible(text))
    return int(any(row["status"] in BAD for each in found.values() for row in each))


if __name__ == "__main__":
    raise SystemExit(main())

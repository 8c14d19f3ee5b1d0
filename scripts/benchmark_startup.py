"""Time how long commands take before their first line, and what they import for it.

CPU seconds of a new process each, the median of some; the first start after a change of the
sources, which executes the lazy files of its configs, has a row of its own. Run it on an idle
machine: `python scripts/benchmark_startup.py`.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

from tabulate import tabulate

from panoptic_dl.core.environment import describe_device
from panoptic_dl.core.files import ROOT

PREDICTOR = "from panoptic_dl import Predictor"
COMMANDS = {
    "python run.py --cfg job": ["run.py", "--cfg", "job"],
    "python run.py --help": ["run.py", "--help"],
    "TAB after backbone=": ["run.py", "-sc", "query=bash"],
    "TAB after train.ba": ["run.py", "-sc", "query=bash"],
    f"{PREDICTOR}, after torch": ["-c", PREDICTOR],
    "import torch": ["-c", "import torch"],
}


def seconds(arguments: list[str], line: str, cache: str) -> tuple[float, float]:
    """CPU seconds and seconds on the clock of `python <arguments>`."""
    environment = os.environ | {"COMP_LINE": line, "PANOPTIC_DL_CACHE": cache}
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


def profile(arguments: list[str], cache: str) -> str:
    """The slowest imports of `python <arguments>`, each with what it imports itself."""
    environment = os.environ | {"PANOPTIC_DL_CACHE": cache}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    found = re.findall(r"\|\s*(\d+) \|( +)(\S+)$", done.stderr, re.MULTILINE)
    rows = sorted(((int(us) / 1e6, name) for us, _, name in found), reverse=True)
    packages = [row for row in rows if row[1].count(".") <= 1][:12]
    return tabulate(packages, headers=["s", "import"], floatfmt=".3f", tablefmt="github")


def main() -> None:
    """Print the table, and the import profile of a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeat", type=int, default=5, help="processes of each command")
    parser.add_argument(
        "--profile", choices=COMMANDS, help="also print what this command imports, slowest first"
    )
    args = parser.parse_args()
    rows, times = [], {}
    with tempfile.TemporaryDirectory() as cache:
        cold = seconds(COMMANDS["python run.py --cfg job"], "", cache)
        rows.append(["python run.py --cfg job, the first time", *cold])
        for name, arguments in COMMANDS.items():
            line = "python run.py " + name.rpartition(" ")[2]
            taken = [seconds(arguments, line, cache) for _ in range(args.repeat)]
            times[name] = [statistics.median(each) for each in zip(*taken, strict=True)]
        torch = times["import torch"]
        for name, (cpu, wall) in times.items():
            without = torch if name.startswith(PREDICTOR) else (0, 0)
            rows.append([name, cpu - without[0], wall - without[1]])
        print(describe_device("cpu"))
        header = ["command", "CPU s", "s on the clock"]
        print(tabulate(rows, headers=header, floatfmt=".2f", tablefmt="github"))
        if args.profile:
            print("\n" + profile(COMMANDS[args.profile], cache))


if __name__ == "__main__":
    main()

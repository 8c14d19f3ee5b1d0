"""Install Detectron2 into this environment: the Python part of a pinned wheel, nothing compiled.

    panoptic-dl setup-detectron2

Detectron2 is not on PyPI under its own name, so it is no dependency that pip could install. The
wheel is sal-detectron2's, checked against the hash in requirements-detectron2.lock. An official
build that is there already stays. Standard library only: `make setup` calls this, too.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

LOCK = Path(__file__).resolve().parents[1] / "requirements-detectron2.lock"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--uv", metavar="PROGRAM", help="install with this uv, in place of pip")
    install(installer(parser.parse_args().uv))


def installer(uv=None):
    """A command that goes before `install`: pip of this environment, of another one, or uv."""
    if uv is None and importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--quiet"]
    if uv := uv or shutil.which("uv"):
        return [uv, "--quiet", "pip"]
    if pip := shutil.which("pip") or shutil.which("pip3"):
        return [pip, "--quiet"]
    raise SystemExit(
        "error: there is no pip and no uv: `python -m ensurepip` brings pip, on Debian or Ubuntu "
        "after `sudo apt-get install python3-venv`"
    )


def install(command):
    """Unpack the Python part of the wheel that the lock names, with `command` of pip or uv."""
    origin = detectron2_origin()
    if origin == "official build":
        print("keeping the Detectron2 that is already installed", flush=True)
        return
    name = LOCK.read_text().split()[0]
    print(f"installing Detectron2 (Python part of {name}; nothing is compiled)", flush=True)
    site = Path(sysconfig.get_paths()["purelib"])
    unpacked = site / "_detectron2_unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    # The wheel is tagged for CPython 3.10 because of one compiled file, which is left out below.
    words = ["install", "--no-deps", "--require-hashes", "--only-binary", ":all:", "-r", str(LOCK)]
    words += ["--target", str(unpacked), "--python-version", "3.10"]
    if command[-2:] == ["--quiet", "pip"]:
        words += ["--python", sys.executable]
    # Outside of any project, whose settings of uv would count.
    quiet = {"PIP_ROOT_USER_ACTION": "ignore", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run([*command, *words], cwd=site.anchor, env=os.environ | quiet)
    if done.returncode:
        raise SystemExit(
            f"error: Detectron2 is not installed: {command[0]} failed (exit {done.returncode}), "
            "its message is above. Nothing needs cleaning: run the same command again"
        )
    for compiled in (unpacked / "detectron2").glob("_C.*"):
        compiled.unlink()
    # The package last: alone it would pass for an official build after an interruption.
    for part in (*unpacked.glob("sal_detectron2-*.dist-info"), unpacked / "detectron2"):
        shutil.rmtree(site / part.name, ignore_errors=True)
        part.rename(site / part.name)
    shutil.rmtree(unpacked)


def detectron2_origin():
    """Where this environment's Detectron2 comes from: '', 'official build' or 'sal-detectron2'."""
    if importlib.util.find_spec("detectron2") is None:
        return ""
    try:
        metadata.version("sal-detectron2")
    except metadata.PackageNotFoundError:
        return "official build"
    return "sal-detectron2"


if __name__ == "__main__":
    main()

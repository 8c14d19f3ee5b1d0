"""Make the checkout ready to run: `make setup`. Standard library only; safe to call again.

A virtual environment (`.venv`, or the folder given) receives the versions of `requirements.lock`
(every file checked against its hash), Detectron2 without its compiled part (no compiler needed),
and this project itself, editable. A stamp inside the environment makes a second call instant; an
interrupted or failed call leaves no stamp, so calling again repairs it. Downloads go through uv's
cache and are hard-linked: a second checkout costs seconds and little disk.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ("requirements.lock", "requirements-detectron2.lock", "requirements-uv.lock")
SCRIPTS = ("setup", "setup_detectron2")
OLDEST, NEWEST = (3, 10), (3, 13)

IMPORT_ALL = """
import importlib, pkgutil, detectron2, panopticapi, panoptic_dl
for module in pkgutil.walk_packages(panoptic_dl.__path__, "panoptic_dl."):
    importlib.import_module(module.name)
"""


def say(text):
    print("setup: " + text, flush=True)


def fingerprint():
    """Hash of everything that decides what gets installed."""
    digest = hashlib.sha256(sys.version.encode())
    for name in (*LOCKS, "pyproject.toml", "setup.py", *map("scripts/{}.py".format, SCRIPTS)):
        digest.update((ROOT / name).read_bytes())
    digest.update(str(ROOT).encode())  # the editable install points here
    return digest.hexdigest()


def run(*command, cwd=None):
    return subprocess.run([str(part) for part in command], check=True, cwd=cwd)


def succeeds(*command):
    """Whether a command can be run and ends well; it prints nothing."""
    quiet = subprocess.DEVNULL
    try:
        done = subprocess.run([str(part) for part in command], stdout=quiet, stderr=quiet)
    except OSError:
        return False
    return done.returncode == 0


def make_environment(folder):
    """Create the virtual environment and put the pinned uv into it; return uv's command."""
    python, uv_home = folder / "bin" / "python", folder / "uv"
    uv = uv_home / "bin" / "uv"
    same = f"import sys; sys.exit(sys.version_info[:2] != {tuple(sys.version_info[:2])})"
    if not succeeds(python, "-c", same):
        if folder.exists():
            say(str(folder) + " is half made, or of another Python; making it again")
            shutil.rmtree(str(folder))
        say("creating " + str(folder) + " with Python " + sys.version.split()[0])
        run(sys.executable, "-m", "venv", "--without-pip", folder)
    if not succeeds(uv, "--version"):
        say("installing uv, the package installer")
        install = ["install", "-q", "--no-deps", "--require-hashes", "--target", uv_home]
        install += [
            "--upgrade",
            "--disable-pip-version-check",
            "--root-user-action=ignore",
            "-r",
            ROOT / "requirements-uv.lock",
        ]
        run(*pip_command(folder), *install)
    return [uv, "--quiet"]


def pip_command(folder):
    """A pip that works: the system's own, or one that `ensurepip` unpacks into the environment."""
    python = folder / "bin" / "python"
    for candidate in (python, sys.executable):
        if succeeds(candidate, "-m", "pip", "--version"):
            return [candidate, "-m", "pip"]
    if succeeds(python, "-m", "ensurepip"):
        return [python, "-m", "pip"]
    raise SystemExit(
        "setup: this Python has neither pip nor ensurepip; on Debian or Ubuntu run\n"
        "    sudo apt-get install python3-venv\n"
        "and then the same make command again."
    )


def main():
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        raise SystemExit(
            "setup: Python {}.{} cannot be used; 3.10 to 3.13 can. Name one: make setup "
            "PYTHON=python3.12 (and remove .venv if it was made with another).".format(
                *sys.version_info[:2]
            )
        )
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / ".venv").absolute()
    stamp, wanted = folder / "setup-stamp", fingerprint()
    if (
        stamp.is_file()
        and stamp.read_text() == wanted
        and succeeds(folder / "bin" / "python", "-c", "")
    ):
        return
    started = time.time()
    stamp.unlink() if stamp.exists() else None
    os.environ.pop("PYTHONPATH", None)
    uv, python = make_environment(folder), folder / "bin" / "python"
    say(
        "installing the pinned packages (torch with CUDA is 5 GB the first time, cached afterwards)"
    )
    lock = ROOT / "requirements.lock"
    # Outside the project, whose overrides made the lock and would loosen it here.
    install = ["pip", "install", "--no-deps", "--require-hashes", "-r", lock, "--python", python]
    run(*uv, *install, cwd=folder.anchor)
    run(python, ROOT / "scripts" / "setup_detectron2.py", "--uv", uv[0])
    say("installing panoptic-dl itself, editable")
    editable = ["--no-deps", "--no-build-isolation", "--editable", ROOT]
    run(*uv, "pip", "install", *editable, "--python", python)
    # Shows that all is there, and leaves bytecode: without it a run takes ten seconds to start.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    run(python, "-W", "ignore", "-c", IMPORT_ALL)
    stamp.write_text(wanted)
    say(f"ready in {time.time() - started:.0f} s")


if __name__ == "__main__":
    try:
        main()
    except subprocess.CalledProcessError as error:
        command = " ".join(str(part) for part in error.cmd[:6])
        raise SystemExit(
            f"setup: `{command} ...` failed (exit {error.returncode}); its message is above. "
            "Nothing needs cleaning: run the same make command again."
        ) from None
    except KeyboardInterrupt:
        raise SystemExit("\nsetup: interrupted; run the same make command again") from None

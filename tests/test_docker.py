"""Dockerfile, .dockerignore and compose.yaml hold what they promise; nothing is built here."""

import re
from fnmatch import fnmatch
from importlib.metadata import requires
from pathlib import Path

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
STAGES = re.split(r"^FROM ", DOCKERFILE, flags=re.MULTILINE)[1:]


def stage(name):
    (found,) = [text for text in STAGES if text.split("\n")[0].endswith(f"AS {name}")]
    return found


def needed(*names):
    """The packages, and all that they need."""
    found, todo = set(), list(names)
    while todo:
        name = canonicalize_name(todo.pop())
        if name not in found:
            found.add(name)
            wanted = map(Requirement, requires(name) or [])
            todo += [r.name for r in wanted if not r.marker or r.marker.evaluate({"extra": ""})]
    return found


def test_the_server_gets_the_locked_packages_of_its_extras_and_no_others():
    listed = re.search(r"wanted = /\^\((.*?)\)==/", stage("server"))[1].split("|")
    extras = re.findall(
        r"^(?:runtime|serve) = \[(.*?)\] #", (ROOT / "pyproject.toml").read_text(), re.M
    )
    names = [Requirement(text).name for text in re.findall(r'"(.*?)"', " ".join(extras))]
    assert set(listed) == needed(*(name for name in names if name != "panoptic-dl"))
    lock = (ROOT / "requirements.lock").read_text()
    blocks = re.split(r"^(?=[a-z])", lock, flags=re.MULTILINE)
    for name in listed:
        (block, *_) = [text for text in blocks if text.startswith(f"{name}==")]
        assert "--hash=sha256:" in block


def test_packages_are_checked_against_their_hashes():
    assert "pip install --require-hashes" in stage("server")
    assert DOCKERFILE.count("pip install") == 1
    assert "scripts/setup.py" in stage("framework")  # which checks them, too
    for word in ("curl", "wget", "ADD ", "git clone", "http://d", "https://", "--trusted-host"):
        assert word not in DOCKERFILE, word


def test_nothing_runs_as_root_and_no_secret_is_named():
    for name in ("server", "framework"):
        (user,) = re.findall(r"^USER (\d+)$", stage(name), re.MULTILINE)
        assert f"--uid {user} " in stage("base")
        assert stage(name).index("\nUSER") < stage(name).index("\nENTRYPOINT")
    assert not re.search("TOKEN|PASSWORD|SECRET|KEY", DOCKERFILE, re.IGNORECASE)


def test_the_context_has_what_is_copied_and_no_data():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    kept = [line[1:] for line in lines if line.startswith("!")]
    assert lines[0] == "*"
    for sources in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.MULTILINE):
        for source in sources.split():
            top = source.split("/")[0]
            assert source == "." or any(fnmatch(top, pattern) for pattern in kept), source
            assert (ROOT / source).exists()
    for folder in (".git", ".venv", "outputs", "datasets", "tests", "docs", ".env"):
        assert not any(fnmatch(folder, pattern) for pattern in kept)


def test_the_composed_server_can_write_nothing_and_is_bounded():
    (server,) = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"].values()
    assert server["read_only"] is True
    assert server["cap_drop"] == ["ALL"]
    assert server["mem_limit"]
    assert all(volume["read_only"] for volume in server["volumes"])
    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    options = [option.split("=")[0] for option in server["command"][1:]]
    assert all(
        f'"{option[2:]}":' in (ROOT / "scripts" / "serve.py").read_text() for option in options
    )

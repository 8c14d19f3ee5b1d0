"""The arrows of architecture.md: which package may import, or name in a config, which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from panoptic_dl.config.builder import find_target
from panoptic_dl.core.errors import import_advice

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "panoptic_dl"
FILES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = sorted((ROOT / "conf").rglob("*.yaml"))
KNOW_HYDRA = ("config", "sweeps", "run")


def read_arrows():
    """What each package may import, from the block of the document that has the arrows."""
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    block = re.search(r"## Arrows\n.*?```\n(.*?)```", text, re.DOTALL)[1]
    arrows = {}
    for line in block.strip().splitlines():
        sources, _, targets = line.partition("->")
        for source in sources.split(","):
            arrows[source.strip()] = {name.strip() for name in targets.split(",")} - {"nothing"}
    return arrows


ARROWS = read_arrows()


def imported(file):
    """Absolute dotted names of all modules that a file imports."""
    names = []
    package = file.parts[file.parts.index("panoptic_dl") : -1]
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            # `from panoptic_dl import data` imports panoptic_dl.data
            names += [f"{module}.{alias.name}" for alias in node.names]
    return names


def package_of(file):
    return file.with_suffix("").parts[file.parts.index("panoptic_dl") + 1]


def violations(file):
    package = package_of(file)
    if package == "__init__":  # of the whole: `Predictor`, imported when it is asked for
        return []
    found = []
    for name in imported(file):
        top, _, rest = name.partition(".")
        other = rest.split(".")[0]
        if top in ("lazy_configs", "run", "scripts", "tests"):
            found.append(f"{name}: the package never imports what is above it")
        elif top in ("hydra", "omegaconf") and package not in KNOW_HYDRA:
            found.append(f"{name}: only {' and '.join(KNOW_HYDRA)} know {top}")
        elif top == "panoptic_dl" and other not in (package, "", *ARROWS[package]):
            found.append(f"{name}: {package} may not import {other}")
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_imports_follow_the_arrows(file):
    assert violations(file) == []


def test_every_package_has_its_arrows():
    assert {package_of(file) for file in FILES} - {"__init__"} == set(ARROWS)


def test_imports_are_absolute():
    relative = [
        f"{file.relative_to(PACKAGE)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def named_in(node, caller=None):
    """(package that is given the name, dotted name) of each name of ours in a config.

    A `_target_` is called by whoever builds the config; other names are called by the object of
    the node's `_target_`.
    """
    if isinstance(node, dict):
        target = node.get("_target_")
        if isinstance(target, str) and target.startswith("panoptic_dl."):
            yield None, target
            caller = target.split(".")[1]
        for key, value in node.items():
            if key != "_target_":
                yield from named_in(value, caller)
    elif isinstance(node, list):
        for value in node:
            yield from named_in(value, caller)
    elif isinstance(node, str) and re.fullmatch(r"panoptic_dl(\.\w+)+", node):
        yield caller, node


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: str(f.relative_to(ROOT / "conf")))
def test_names_in_configs_follow_the_arrows(file):
    for caller, name in named_in(yaml.safe_load(file.read_text())):
        if file.parent.name != "conf":  # Hydra makes the callbacks of config.yaml itself
            assert callable(find_target(name))
        if caller is not None:
            package = name.split(".")[1]
            assert package in (caller, *ARROWS[caller]), f"{caller} is given {name}"


def test_the_rule_sees_relative_and_absolute_imports(tmp_path):
    file = tmp_path / "panoptic_dl" / "models" / "bad.py"
    file.parent.mkdir(parents=True)
    file.write_text(
        "from ..data import mapper\nimport omegaconf\nfrom panoptic_dl.train.train import train\n"
        "from panoptic_dl import demo\nimport lazy_configs.head\nfrom ..postprocess import x\n"
    )
    assert [v.split(":")[0] for v in violations(file)] == [
        "panoptic_dl.data.mapper",
        "omegaconf",
        "panoptic_dl.train.train.train",
        "panoptic_dl.demo",
        "lazy_configs.head",
    ]


def test_the_rule_sees_names_in_configs():
    node = {"a": {"_target_": "panoptic_dl.report.x.X", "by": ["panoptic_dl.train.train.train"]}}
    assert list(named_in(node)) == [
        (None, "panoptic_dl.report.x.X"),
        ("report", "panoptic_dl.train.train.train"),
    ]


def test_the_package_and_the_configs_entrance_load_without_torch():
    code = "import sys, panoptic_dl.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_advice_on_a_missing_package_names_all_extras():
    project = (ROOT / "pyproject.toml").read_text()
    table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = {*re.findall(r"^(\w+) = ", table, re.MULTILINE)}
    named = re.search(r"\[(.*)\]", import_advice(ImportError("x", name="x")))[1].split(",")
    # What export and serve have too, and what only work on the project needs.
    assert extras - {"runtime", "docs", "notebooks", "dev"} == {*named}

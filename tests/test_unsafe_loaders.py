"""No module opens a file with a loader that could run what is in it; see SECURITY.md."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    ROOT / "run.py",
    *(ROOT / "panoptic_dl").rglob("*.py"),
    *(ROOT / "scripts").rglob("*.py"),
    *(ROOT / "lazy_configs").rglob("*.py"),
]
# Loaders that run what a file says, and the files that may name them, with the reason.
FORBIDDEN: dict[str, dict[str, str]] = {
    "pickle.load": {},
    "pickle.loads": {},
    "pickle.Unpickler": {},
    "pickle._Unpickler": {"panoptic_dl/weights/programs.py": "parent of the allow-listed reader"},
    "yaml.load": {},
    "yaml.load_all": {},
    "yaml.full_load": {},
    "yaml.full_load_all": {},
    "yaml.unsafe_load": {},
    "yaml.unsafe_load_all": {},
    "torch.jit.load": {},
    "torch.package": {},
    "torch.hub": {},
    "torch.serialization.add_safe_globals": {},
    "torch.utils.model_zoo": {},
    "detectron2.checkpoint": {},
    "detectron2.model_zoo": {},
    "detectron2.config.instantiate.instantiate": {},
    "detectron2.config.instantiate": {"panoptic_dl/config/lazy.py": "dump_dataclass, no loader"},
    "detectron2.config.get_cfg": {},
    "detectron2.config.CfgNode": {},
    "detectron2.config.LazyConfig": {"panoptic_dl/config/lazy.py": "lazy files are code"},
    "fvcore.common.config": {},
    "hydra.utils.instantiate": {},
    "hydra.utils.call": {},
    "builtins.eval": {},
    "builtins.exec": {},
    "builtins.compile": {},
    "cloudpickle": {"panoptic_dl/engine/children.py": "from a process to one that it starts"},
    **{
        module: {}
        for module in (
            "cPickle",
            "dill",
            "joblib",
            "jsonpickle",
            "marshal",
            "shelve",
        )
    },
}
BUILTINS = ("eval", "exec", "compile")
METHODS = {  # of fvcore's checkpointers: they open files as they like
    "resume_or_load": "fvcore's checkpointer reads unrestrictedly",
}


def violations(file: Path, name: str) -> list[str]:
    """Lines of a file that use an unsafe loader; `name` is its path in the repository."""
    tree = ast.parse(file.read_text())
    aliases = dict(imports(tree))
    found = []
    for full_name, line in [*((n, 0) for n in aliases.values()), *uses(tree, aliases)]:
        for forbidden, allowed in FORBIDDEN.items():
            inside = full_name == forbidden or full_name.startswith(forbidden + ".")
            if inside and name not in allowed:
                found.append(f"{line}: {full_name}")
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, aliases)
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            found.append(f"{node.lineno}: {node.func.id}")
        options = {k.arg: k.value for k in node.keywords}
        if called in ("torch.load", "torch.serialization.load") and not is_true(
            options.get("weights_only")
        ):
            found.append(f"{node.lineno}: {called} without weights_only=True")
        if called in ("numpy.load", "numpy.lib.npyio.load"):
            pickled = options.get("allow_pickle")
            if len(node.args) > 2 or None in options or (pickled and not is_false(pickled)):
                found.append(f"{node.lineno}: {called} with allow_pickle")
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found.append(f"{node.lineno}: {node.func.attr}: {METHODS[node.func.attr]}")
    return found


def imports(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name in the file, dotted name) of everything that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (
                    (alias.asname or alias.name.split(".")[0]),
                    (alias.name if alias.asname else alias.name.split(".")[0]),
                )
                yield f"import of {alias.name}", alias.name
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def uses(tree: ast.AST, aliases: dict[str, str]) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)):
            full = dotted(node, aliases)
            if full:
                yield full, node.lineno


def dotted(node: ast.AST, aliases: dict[str, str]) -> str:
    """The dotted name of an expression, imports resolved; "" if it is none."""
    if isinstance(node, ast.Name):
        return aliases.get(node.id, "")
    if isinstance(node, ast.Attribute):
        parent = dotted(node.value, aliases)
        return f"{parent}.{node.attr}" if parent else ""
    return ""


def is_true(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def is_false(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_file_uses_an_unsafe_loader(file):
    assert violations(file, file.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle\npickle.loads(b'')",
        "import pickle as p\np.load(f)",
        "from pickle import load as read\nread(f)",
        "from pickle import Unpickler\nclass A(Unpickler): pass",
        "import torch\ntorch.load(f)",
        "import torch\ntorch.load(f, weights_only=False)",
        "import torch\ntorch.load(f, weights_only=flag)",
        "from torch import load\nload(f, map_location='cpu')",
        "import torch\ntorch.jit.load(f)",
        "import yaml\nyaml.load(f, yaml.Loader)",
        "from yaml import unsafe_load\nunsafe_load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, None, True)",
        "import numpy as np\nnp.load(f, **options)",
        "from detectron2.checkpoint import DetectionCheckpointer",
        "import detectron2.checkpoint as c\nc.DetectionCheckpointer(m).load(f)",
        "from detectron2.config import LazyConfig\nLazyConfig.load(f)",
        "from detectron2.config import instantiate\ninstantiate(c)",
        "from hydra.utils import instantiate\ninstantiate(c)",
        "import hydra\nhydra.utils.instantiate(c)",
        "checkpointer.resume_or_load(f)",
        "import joblib\njoblib.load(f)",
        "eval(text)",
        "import builtins\nbuiltins.exec(text)",
    ],
)
def test_the_rule_sees_each_of_them(tmp_path, code):
    (tmp_path / "bad.py").write_text(code)
    assert violations(tmp_path / "bad.py", "panoptic_dl/bad.py")


@pytest.mark.parametrize(
    "code",
    [
        "import torch\ntorch.load(f, map_location='cpu', weights_only=True)",
        "import numpy as np\nnp.load(f)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "import pickle\npickle.dump(x, f)",
        "import json\njson.load(f)",
        "model.eval()",
        "import re\nre.compile('x')",
    ],
)
def test_the_rule_lets_the_safe_ones_pass(tmp_path, code):
    (tmp_path / "good.py").write_text(code)
    assert violations(tmp_path / "good.py", "panoptic_dl/good.py") == []

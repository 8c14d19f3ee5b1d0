"""No module opens a file with a loader that could run what is in it; see SECURITY.md."""

import ast
from collections.abc import Iterable, Iterator
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
    "pickle._Unpickler": {
        "panoptic_dl/weights/safe_pickle.py": "base of the restricted unpickler; C's hashes "
        "tuples of tuples without a bound, and makes as much room as a file claims"
    },
    "yaml.load": {},
    "yaml.load_all": {},
    "yaml.full_load": {},
    "yaml.full_load_all": {},
    "yaml.unsafe_load": {},
    "yaml.unsafe_load_all": {},
    **{f"yaml.{loader}": {} for loader in ("Loader", "FullLoader", "UnsafeLoader", "CLoader")},
    "pandas.read_pickle": {},
    "torch.serialization._legacy_load": {},
    "torch.serialization._load": {},
    "torch._weights_only_unpickler": {},
    "fvcore.common.checkpoint": {},
    "detectron2.engine.DefaultPredictor": {},
    "detectron2.engine.DefaultTrainer": {},
    "detectron2.engine.defaults": {},
    "hydra.utils.get_class": {},
    "hydra.utils.get_method": {},
    "hydra.utils.get_object": {},
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
    "detectron2.config.LazyConfig": {
        "panoptic_dl/config/lazy.py": "lazy files are code",
        "scripts/generate_docs.py": "those of the checkout",
    },
    "fvcore.common.config": {},
    "hydra.utils.instantiate": {},
    "hydra.utils.call": {},
    "builtins.eval": {},
    "builtins.exec": {},
    "builtins.compile": {},
    "cloudpickle": {
        "panoptic_dl/sweeps/launchers.py": "between a sweep and the processes of its rows",
    },
    **{
        module: {}
        for module in (
            "_pickle",
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
# Modules that name a loader: none is imported, or looked into, by a text.
HIDING = ("pickle", "torch", "yaml", "numpy", *FORBIDDEN)
IMPORTERS = ("importlib.import_module", "importlib.__import__", "builtins.__import__")
LOADERS = ("torch.load", "torch.serialization.load")
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
    right = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call) and is_plain_load(n)}
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.Name, ast.Attribute))
            and dotted(node, aliases) in LOADERS
            and id(node) not in right
        ):
            found.append(f"{node.lineno}: {dotted(node, aliases)} without weights_only=True")
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func, aliases)
        if hidden := names_by_text(node, called, aliases):
            found.append(f"{node.lineno}: {hidden} by a text")
        if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
            found.append(f"{node.lineno}: {node.func.id}")
        options = {k.arg: k.value for k in node.keywords}
        if called in ("numpy.load", "numpy.lib.npyio.load"):
            pickled = options.get("allow_pickle")
            if len(node.args) > 2 or None in options or (pickled and not is_false(pickled)):
                found.append(f"{node.lineno}: {called} with allow_pickle")
        if isinstance(node.func, ast.Attribute) and node.func.attr in METHODS:
            found.append(f"{node.lineno}: {node.func.attr}: {METHODS[node.func.attr]}")
    return found


def is_plain_load(call: ast.Call) -> bool:
    """Whether the call says weights_only=True, and names no module that reads in pickle's place."""
    options = {k.arg: k.value for k in call.keywords}
    others = len(call.args) > 2 or None in options or "pickle_module" in options
    return is_true(options.get("weights_only")) and not others


def names_by_text(call: ast.Call, called: str, aliases: dict[str, str]) -> str:
    """The module that a call imports or looks into by a text; "" if it does neither."""
    if called in IMPORTERS or (isinstance(call.func, ast.Name) and call.func.id == "__import__"):
        text = call.args[0] if call.args else None
        if isinstance(text, ast.Constant) and isinstance(text.value, str):
            return text.value if is_inside(text.value, HIDING) else ""
    if isinstance(call.func, ast.Name) and call.func.id == "getattr" and call.args:
        module = dotted(call.args[0], aliases)
        attribute = call.args[1] if len(call.args) > 1 else None
        if module in ("pickle", "yaml"):
            return module
        if isinstance(attribute, ast.Constant):
            full = f"{module}.{attribute.value}"
            return full if full in LOADERS or is_inside(full, FORBIDDEN) else ""
    return ""


def is_inside(name: str, parents: Iterable[str]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


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
        "import torch\nread = torch.load\nread(f)",
        "import torch\nfrom functools import partial\npartial(torch.load, weights_only=True)(f)",
        "import torch, dill as d\ntorch.load(f, weights_only=True, pickle_module=d)",
        "import torch\ntorch.load(f, weights_only=True, pickle_module=own)",
        "import torch\ntorch.load(f, weights_only=True, **options)",
        "import torch\ngetattr(torch, 'load')(f)",
        "import torch\ntorch.serialization._legacy_load(f, p)",
        "from torch.serialization import _legacy_load",
        "from fvcore.common.checkpoint import Checkpointer",
        "from detectron2.engine import DefaultPredictor",
        "from detectron2.engine import DefaultTrainer",
        "from detectron2.engine.defaults import DefaultTrainer",
        "import detectron2.engine as e\ne.DefaultPredictor(c)",
        "import _pickle\n_pickle.loads(b'')",
        "import pandas as pd\npd.read_pickle(f)",
        "import yaml\nyaml.Loader(f).get_data()",
        "import yaml\nyaml.UnsafeLoader(f)",
        "import importlib\nimportlib.import_module('pickle').loads(b'')",
        "from importlib import import_module\nimport_module('torch').load(f)",
        "__import__('pickle').loads(b'')",
        "import pickle\ngetattr(pickle, 'loads')(b'')",
        "import pickle\ngetattr(pickle, name)(b'')",
        "import hydra\nhydra.utils.get_class(name)",
        "from hydra.utils import get_class",
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

"""Write the parts of the documentation that come from the code: `make docs`.

Whole pages: docs/reference/groups.md (the options of conf/ and lazy_configs/, by their first lines)
and settings.md (keys, by panoptic_dl/core/settings.py and the comments beside them), and
settings.schema.json, by which editors complete them. Other pages have parts between two comments.
mkdocs calls `on_page_markdown`, which brings in files that lie outside of docs/.
"""

import ast
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from detectron2.config import LazyConfig
from omegaconf import OmegaConf

from panoptic_dl.config.lazy import COMPANIONS
from panoptic_dl.core.settings import GROUPS, OTHERS, as_yaml, describe_type, settings_table
from panoptic_dl.evaluation.metrics import EVALUATORS, METRICS

ROOT = Path(__file__).parents[1]
CONF, LAZY = ROOT / "conf", ROOT / "lazy_configs"
# As a reader meets them: what all share, how a run comes to be, the science, what uses it.
PACKAGES = (
    "core",
    "config",
    "launch",
    "sweeps",
    "datasets",
    "data",
    "models",
    "postprocess",
    "evaluation",
    "predictions",
    "weights",
    "train",
    "modes",
    "runtime",
    "demo",
    "doctor",
    "loggers",
    "visualize",
    "report",
)
OPTION_GROUPS = {
    "backbone": "The network that computes features from the image.",
    "head": "The decoders on top of the features.",
    "dataset": "The images, their classes, and the sizes that go with them.",
    "task": "What is predicted, and hence the model.",
    "mode": "What a run does.",
    "experiment": "A row of a published table, or an example, with all its settings.",
    "recipe": "Length, batch, learning rate and optimizer of a dataset and a task; without this "
    "option that of the chosen dataset and task.",
    "optimizer": "How gradients become steps. The recipe chooses it.",
    "schedule": "The learning rate over the iterations.",
    "loss": "The semantic loss; several as a list, `loss=[focal,class_weights]`.",
    "augmentation": "Random changes of training images; several as a list.",
    "hardware": "The recipe's batch on your machine.",
    "logger": "Where curves and pictures go besides `metrics.json`; several as a list.",
    "launch": "Where the processes of a run come from.",
    "sweep": "With `-m`: many runs by one command.",
    "hydra/launcher": "With `-m`: where the runs of a sweep are started.",
    "hydra/sweeper": "With `-m`: a search in place of a grid.",
}
# Keys that stand in YAML files, by the heading of the settings page
KEYS_OF = {
    "The run": (CONF / "config.yaml", ""),
    "optimizer": (CONF / "optimizer" / "adam.yaml", "optimizer."),
    "schedule": (CONF / "schedule" / "poly.yaml", "schedule."),
    "mode=analyze": (CONF / "mode" / "analyze.yaml", "mode."),
    "logger=wandb": (CONF / "logger" / "wandb.yaml", "logger."),
    "logger=mlflow": (CONF / "logger" / "mlflow.yaml", "logger."),
    "hydra/launcher=slurm": (CONF / "hydra" / "launcher" / "slurm.yaml", "hydra.launcher."),
    "hydra/sweeper=optuna": (CONF / "hydra" / "sweeper" / "optuna.yaml", "hydra.sweeper."),
}
DATASETS = ("cityscapes", "coco", "coco_format")  # whose defaults the settings page shows
PARTS = ("backbone", "head", "dataset", "task", "optimizer", "schedule", "logger")


def module_tree() -> str:
    """A line for every package and module: its name and the first sentence of its docstring."""
    lines = [_line(name, ROOT / "panoptic_dl" / name) for name in ("__main__.py", "run.py")]
    for package in PACKAGES:
        folder = ROOT / "panoptic_dl" / package
        lines.append(_line(f"{package}/", folder / "__init__.py"))
        for file in sorted(folder.rglob("*.py")):
            if file.name != "__init__.py":
                lines.append(_line(f"  {file.relative_to(folder)}", file))
    return "".join(lines)


def _line(name: str, file: Path) -> str:
    return f"{name:<31} {first_sentence(file)}\n"


def first_sentence(file: Path) -> str:
    """What a file says of itself: its docstring's first paragraph, or its first comment."""
    if file.suffix == ".py":
        docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
        return " ".join(docstring.partition("\n\n")[0].split())
    said = ""
    for line in file.read_text().splitlines():
        if line.startswith("# @"):
            continue
        if not line.startswith("# "):
            break
        said += line[1:]
        if line.endswith((".", "`")) or line.startswith("#   "):
            break
    return said.strip()


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A table of Markdown; `head` names its columns, apart by |."""
    lines = [f"| {head} |", "| --- " * (head.count("|") + 1) + "|"]
    for row in rows:
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines)


def groups_page() -> str:
    """The text of reference/groups.md: the options of each group."""
    parts = [
        "# Groups\n\nA group has options; `group=option` on the command line chooses one, and "
        "`python run.py --help` lists them. Groups whose only option is `default` are listed with "
        "their keys on the page [Settings](settings.md). `make docs` makes this page."
    ]
    chosen = _defaults()
    for group, meaning in OPTION_GROUPS.items():
        default = f" Default: `{chosen[group]}`." if chosen.get(group) else ""
        rows = [(f"`{name}`", _prose(first_sentence(file))) for name, file in _options(group)]
        parts.append(f"## {group}\n\n{meaning}{default}\n\n{table('option | what it is', rows)}")
    return "\n\n".join(parts) + "\n"


def _defaults() -> dict[str, str]:
    """The option of each group that config.yaml chooses."""
    listed = yaml.safe_load((CONF / "config.yaml").read_text())["defaults"]
    pairs = [pair for each in listed if isinstance(each, dict) for pair in each.items()]
    return {group: option for group, option in pairs if "$" not in str(option)}


def _options(group: str) -> list[tuple[str, Path]]:
    files = [*(LAZY / group).glob("[!_]*.py"), *(CONF / group).glob("*.yaml")]
    return sorted((file.stem, file) for file in files)


def _prose(text: str) -> str:
    """Text of a comment as Markdown: what looks like HTML or a path is code, papers are links."""
    text = re.sub(r"(?<!`)(<\w+>[\w/.]*|\$\w+)(?!`)", r"`\1`", text)
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def settings_page() -> str:
    """The text of reference/settings.md: a table for each group of keys."""
    parts = [
        "# Settings\n\nEvery key can be set on the command line (`train.ema=0.9999`) or in an "
        "experiment file; an unknown key or a value of another kind is refused at the start. "
        "Editors complete them by `docs/reference/settings.schema.json`. "
        "`python run.py --cfg job --resolve` prints the values of a run. "
        "`make docs` makes this page."
    ]
    head = "key | default | values | meaning"
    run, *others = KEYS_OF
    parts.append(f"## {run}\n\n{table(head, _yaml_rows(run))}")
    for group in GROUPS:
        rows = [(f"`{n}`", f"`{d}`", v, m) for n, d, v, m in settings_table(group)]
        parts.append(f"## {group}\n\n{table(head, rows)}")
    columns = " | ".join(DATASETS)
    parts.append(
        "## dataset\n\nSizes are (height, width) in pixels; a size alone is that of the shortest "
        "edge. Other datasets change some of the defaults, in `lazy_configs/dataset/`. "
        "An empty cell: this dataset has no such key.\n\n"
        + table(f"key | {columns} | values | meaning", _dataset_rows())
    )
    parts.append(f"## head\n\n{table(head, _head_rows())}")
    parts += [f"## {name}\n\n{table(head, _yaml_rows(name))}" for name in others]
    return "\n\n".join(parts) + "\n"


def _yaml_rows(name: str) -> list[tuple[str, str, str, str]]:
    file, prefix = KEYS_OF[name]
    found = []
    for key, text, meaning in yaml_keys(file.read_text()):
        if meaning or not re.search(r"\$\{(?!oc\.env)", text):
            value = yaml.safe_load(text)
            found.append((f"`{prefix}{key}`", f"`{text}`", _values(prefix + key, value), meaning))
    return found


def yaml_keys(text: str) -> list[tuple[str, str, str]]:
    """Dotted key, value and comment, behind it or in the lines before, of each leaf."""
    found: list[tuple[str, str, str]] = []
    parents: list[tuple[int, str]] = []
    before = ""
    for line in text.splitlines():
        if comment := re.match(r" *# ?(.*)", line):
            before = f"{before} {comment[1]}".strip()
            continue
        match = re.match(r"( *)(\w+):(?: +([^#\s].*?))?(?: +# (.*))?$", line)
        if match is None or (match[2] in ("defaults", "hydra") and not match[1]):
            parents, before = [(len(match[1]), "")] if match else parents, ""
            continue
        parents = [each for each in parents if each[0] < len(match[1])]
        path = [name for _, name in parents]
        if match[3] is None or match[2].startswith("_"):
            parents.append((len(match[1]), match[2] if match[3] is None else ""))
        elif "" not in path:
            found.append((".".join([*path, match[2]]), match[3], match[4] or before))
        before = ""
    return found


def _values(name: str, value: Any) -> str:
    """What a key takes, in words: as it is checked, or like its default."""
    if name in OTHERS:
        hint, metadata = OTHERS[name]
        return ", ".join(map(as_yaml, metadata["choices"])) or describe_type(hint)
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        kinds = {describe_type(type(each)).partition(" ")[2] for each in value}
        return f"a list of {kinds.pop()}s" if len(kinds) == 1 else "a list"
    return "" if re.search(r"\$|\?\?\?", str(value)) else describe_type(type(value))


def _dataset_rows() -> list[tuple[str, ...]]:
    trees = {name: dict(_leaves(_tree("dataset", name))) for name in DATASETS}
    meanings = _comments(*(LAZY / "dataset" / f"{name}.py" for name in (*DATASETS, "_custom")))
    found = []
    for key in dict.fromkeys(key for tree in trees.values() for key in tree):
        cells = [f"`{_short(tree[key])}`" if key in tree else "" for tree in trees.values()]
        value = next((tree[key] for tree in trees.values() if tree.get(key) is not None), None)
        values = _values(f"dataset.{key}", value)
        meaning = meanings.get(key.rpartition(".")[2], "")
        found.append((f"`dataset.{key}`", *cells, values, meaning))
    return found


def _head_rows() -> list[tuple[str, ...]]:
    meanings = _comments(LAZY / "head" / "conv.py")
    leaves = _leaves(_tree("head", "conv"), built=True)
    return [
        (f"`head.{key}`", f"`{_short(value)}`", _values("", value), meanings[name])
        for key, value in leaves
        if (name := key.rpartition(".")[2]) in meanings and "${" not in str(value)
    ]


def _tree(group: str, option: str, variable: str = "") -> Any:
    """What an option of a group holds, as its own file says, or another variable of that file."""
    if not (LAZY / group / f"{option}.py").exists():
        return yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    found = LazyConfig.load(str(LAZY / group / f"{option}.py")).get(variable or group)
    return None if found is None else OmegaConf.to_container(found, resolve=False)


def _leaves(tree: Any, prefix: str = "", *, built: bool = False) -> Iterable[tuple[str, Any]]:
    """Dotted key and value of what can be set; `built`: also of objects that are built."""
    for key, value in tree.items():
        if isinstance(value, dict):
            if built or "_target_" not in value:
                yield from _leaves(value, f"{prefix}{key}.", built=built)
        elif not key.startswith("_"):
            yield f"{prefix}{key}", value


def _comments(*files: Path) -> dict[str, str]:
    """The comment behind each `key=value` of lazy files, by key; the first one counts."""
    found: dict[str, str] = {}
    for file in files:
        for line in file.read_text().splitlines():
            if match := re.match(r"\s*(?:dataset\.)?(\w+) ?=.*?  # (.*)$", line):
                found.setdefault(match[1], match[2])
    return found


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        items = [str(each) for each in value]
        return f"[{', '.join(items if len(items) < 6 else [*items[:2], '...', items[-1]])}]"
    return as_yaml(value)


def metrics_table() -> str:
    """A row for each metric, in the order of the printed tables."""
    rows = [
        (
            f"`{metric.name}`",
            metric.unit,
            "higher" if metric.higher_is_better else "lower",
            "yes" if metric.published else "",
            ", ".join(f"`{task}/{key}`" for task, key in metric.results),
        )
        for metric in METRICS
    ]
    return table("metric | unit | better | in published tables | in results.json", rows)


def evaluators_table() -> str:
    """A row for each evaluator."""
    rows = [
        (
            f"`{each.target}`",
            ", ".join(f"`{name}`" for name in each.runs_on),
            f"`{each.official}`" if each.official else "",
        )
        for each in EVALUATORS
    ]
    return table("evaluator | dataset and task | official evaluator beside it", rows)


def schema() -> str:
    """A JSON schema of files that set keys of the whole config, such as conf/experiment/*.yaml."""
    properties: dict[str, Any] = {
        "defaults": {
            "type": "array",
            "description": "Options of groups; `override /group: option`.",
        },
        "hydra": {"type": "object"},
        "mode": {"type": "object", "description": "What the mode's function gets."},
        "augmentation": {"type": "object", "description": "Keys of augmentation=..."},
        "class_weights": {
            "type": ["object", "null"],
            "description": "Weight of a class by its name, with loss=class_weights.",
            "additionalProperties": {"type": "number"},
        },
    }
    for key, text, meaning in yaml_keys((CONF / "config.yaml").read_text()):
        *parents, leaf = key.split(".")
        place = properties
        for parent in parents:
            place = place.setdefault(parent, {"type": "object", "properties": {}})["properties"]
        hint = OTHERS[key][0] if key in OTHERS else None
        kind = _kind(hint, OTHERS[key][1]) if hint else _like([yaml.safe_load(text)])
        place[leaf] = kind | {"description": meaning}
    properties["input"] = {"description": properties["input"]["description"]}
    properties["published"] = {
        "type": ["object", "null"],
        "description": properties["published"]["description"],
        "properties": {metric.name: {"type": "number"} for metric in METRICS if metric.published},
        "additionalProperties": False,
    }
    for group, settings in GROUPS.items():
        hints = get_type_hints(settings)
        keys = {
            each.name: _kind(hints[each.name], each.metadata)
            | {"description": each.metadata["meaning"], "default": each.metadata["default"]}
            for each in fields(settings)  # type: ignore[arg-type]
        }
        properties[group] = {"type": "object", "properties": keys, "additionalProperties": False}
    for group in PARTS:
        for key in (group, *COMPANIONS.get(group, ())):
            trees = [_tree(group, name, key) for name, _ in _options(group)]
            properties[key] = _like([tree for tree in trees if tree is not None])
    described = properties["dataset"]["properties"]
    meanings = _comments(LAZY / "dataset" / "cityscapes.py", *(LAZY / "dataset").glob("*.py"))
    for key, meaning in meanings.items():
        if key in described:
            described[key]["description"] = meaning
    for key in ("augmentation", "ignore_label", "image_format", "label_divisor", "max_bad_samples"):
        described[key] |= _kind(*OTHERS[f"dataset.{key}"])
    whole = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Settings of panoptic-dl",
        "description": "Files with `# @package _global_`. Made by `make docs`.",
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return json.dumps(whole, indent=1) + "\n"


INTERPOLATION = {"type": "string", "pattern": r"\$\{"}
_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
_LIMITS = {
    "least": "minimum",
    "most": "maximum",
    "above": "exclusiveMinimum",
    "below": "exclusiveMaximum",
}


def _kind(hint: Any, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a checked setting takes: its type and range, or an interpolation."""
    kinds = []
    for each in get_args(hint) if isinstance(hint, UnionType) else (hint,):
        if get_origin(each) is list:
            kinds.append({"type": "array", "items": _one(get_args(each)[0], metadata)})
        elif get_origin(each) is dict:
            kinds.append({"type": "object"})
        elif not metadata["choices"] or each not in (bool, str):
            kinds.append(_one(each, metadata))
    if choices := list(metadata["choices"]):
        kinds.append({"enum": choices})
    return {"anyOf": [*kinds, INTERPOLATION]}


def _one(kind: type, metadata: Mapping[str, Any]) -> dict[str, Any]:
    if kind is str and metadata["choices"]:
        return {"enum": [each for each in metadata["choices"] if each is not None]}
    limits = metadata["limits"] if kind in (int, float) else {}
    return {"type": _TYPES[kind]} | {_LIMITS[name]: limit for name, limit in limits.items()}


def _like(values: list[Any]) -> dict[str, Any]:
    """What takes values such as these, of parts that anybody may add keys to; or null."""
    trees = [each for each in values if isinstance(each, dict)]
    if trees:
        keys = dict.fromkeys(key for tree in trees for key in tree if not key.startswith("_"))
        properties = {key: _like([tree[key] for tree in trees if key in tree]) for key in keys}
        also = {_type(each) for each in values if not isinstance(each, dict)}
        return {"type": sorted({"object", "null"} | also), "properties": properties}
    types = {_type(each) for each in values if each not in (None, "???") and "${" not in str(each)}
    return {"type": sorted({*types, "null", "string"})} if types else {}


def _type(value: Any) -> str:
    if isinstance(value, list | tuple):
        return "array"
    name = _TYPES.get(type(value), "object")
    return "number" if name == "integer" else name


def panels() -> str:
    """The table of what loggers show, which has the program of W&B's dashboard."""
    from wandb_dashboard import panel_table

    return panel_table()


MADE = {"metrics": metrics_table, "evaluators": evaluators_table, "panels": panels}


def with_parts(text: str) -> str:
    """A page, with what stands between `<!-- NAME -->` and `<!-- /NAME -->` made anew."""
    block = re.compile(rf"(<!-- ({'|'.join(MADE)}) -->\n)[\s\S]*?(?=<!-- /\2 -->)")
    return block.sub(lambda match: f"{match[1]}\n{MADE[match[2]]().strip()}\n\n", text)


def with_tree(text: str) -> str:
    """The text of docs/explanation/architecture.md with the present tree."""
    block = re.compile(r"(<!-- tree -->\n```(?:text)?\n).*?(?=```)", re.DOTALL)
    return block.sub(lambda match: match[1] + module_tree(), text)


def pages() -> dict[Path, str]:
    """All files of docs/ that are made in whole or in part, and their present text."""
    docs = ROOT / "docs"
    made = {file: with_tree(with_parts(file.read_text())) for file in docs.rglob("*.md")}
    made = {file: text for file, text in made.items() if re.search("<!-- (tree|/[a-z]+) -->", text)}
    return made | {
        docs / "reference" / "groups.md": groups_page(),
        docs / "reference" / "settings.md": settings_page(),
        docs / "reference" / "settings.schema.json": schema(),
    }


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A hook of mkdocs: `<!-- file: CHANGELOG.md -->` stands for that file of the repository."""

    def content(match: re.Match) -> str:
        return with_links((ROOT / match[1]).read_text(), page.file.src_uri)

    return re.sub(r"<!-- file: (\S+) -->", content, markdown)


def with_links(text: str, page: str) -> str:
    """Text of a file in the root whose links go to pages of docs/, or are no links.

    Args:
        page: where it stands in docs/, such as reference/changelog.md.
    """
    up = "../" * (len(PurePosixPath(page).parts) - 1)
    pages = {"README.md": "index.md"}
    pages |= {
        f"{n.upper()}.md": f"reference/{n}.md" for n in ("changelog", "contributing", "security")
    }

    def link(match: re.Match) -> str:
        words, target, anchor = match.groups(default="")
        place = target.removeprefix("docs/") if target.startswith("docs/") else pages.get(target)
        if place:
            return f"[{words.removeprefix('docs/')}]({up}{place}{anchor})"
        return words if "`" in words else f"`{words}`"

    return re.sub(r"\[([^\]]+)\]\((?![a-z]+:|#)([^)#]+)(#[^)]*)?\)", link, text)


def main() -> None:
    for file, text in pages().items():
        if not file.exists() or file.read_text() != text:
            file.write_text(text)
            print(f"wrote {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()

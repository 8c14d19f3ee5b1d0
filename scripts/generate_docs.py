"""Write the parts of the documentation that come from the code: `make docs`.

docs/reference/settings.md from panoptic_dl/core/settings.py and the first lines of the options in
conf/, and the tree of docs/explanation/architecture.md from the first sentences of the modules.
"""

import ast
import re
from pathlib import Path

from panoptic_dl.core.settings import GROUPS, settings_table

ROOT = Path(__file__).parents[1]
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

CHOICES = ("optimizer", "schedule", "loss", "augmentation")  # groups of conf/ that are no settings


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
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    sentence = " ".join(docstring.partition("\n\n")[0].split())
    return f"{name:<31} {sentence}\n"


def settings_page() -> str:
    """The text of reference/settings.md: a table for each group of settings, and of options."""
    parts = [
        "# Settings\n\nEvery key can be set on the command line (`train.ema=0.9999`) or in an "
        "experiment file. `make docs` makes this page."
    ]
    for group in GROUPS:
        lines = [
            f"## {group}\n",
            "| key | default | values | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for row in settings_table(group):
            name, default, values, meaning = (cell.replace("|", "\\|") for cell in row)
            lines.append(f"| `{name}` | `{default}` | {values} | {meaning} |")
        parts.append("\n".join(lines))
    for group in CHOICES:
        lines = [f"## {group}=\n", "| option | what it is |", "| --- | --- |"]
        for file in sorted((ROOT / "conf" / group).glob("*.yaml")):
            lines_of_file = file.read_text().splitlines()
            meaning = next(x for x in lines_of_file if not x.startswith("# @")).lstrip("# ")
            lines.append(f"| `{file.stem}` | {meaning} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def with_tree(text: str) -> str:
    """The text of docs/explanation/architecture.md with the present tree."""
    block = re.compile(r"(<!-- tree -->\n```\n).*?(?=```)", re.DOTALL)
    return block.sub(lambda match: match[1] + module_tree(), text)


def main() -> None:
    docs = ROOT / "docs"
    (docs / "reference" / "settings.md").write_text(settings_page())
    architecture = docs / "explanation" / "architecture.md"
    architecture.write_text(with_tree(architecture.read_text()))


if __name__ == "__main__":
    main()

"""What README.md and the tutorials say can be done is done here, with their own text."""

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TUTORIALS = ROOT / "docs" / "tutorials"
COMING_FROM = (ROOT / "docs" / "how-to" / "coming_from.md").read_text(encoding="utf-8")
BACKBONE = (TUTORIALS / "backbone.md").read_text(encoding="utf-8")
PUBLISHED = (TUTORIALS / "reproduce.md").read_text(encoding="utf-8")


def code_of(file: str) -> str:
    """The tutorial's code block whose first line is a comment that starts with `file`."""
    blocks = re.findall(r"```python\n(.*?)```", BACKBONE, re.DOTALL)
    (block,) = (b for b in blocks if b.startswith(f"# {file}"))
    return block


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_the_example_backbone_runs(tmp_path, monkeypatch, task):
    (tmp_path / "my_models.py").write_text(code_of("my_models.py"))
    lazy = tmp_path / "lazy_configs"
    shutil.copytree(ROOT / "lazy_configs", lazy, ignore=shutil.ignore_patterns("__pycache__"))
    (lazy / "backbone" / "plain.py").write_text(code_of("lazy_configs/backbone/plain.py"))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(sys.modules, "my_models", None)  # forgotten again after the test
    del sys.modules["my_models"]
    monkeypatch.setattr("panoptic_dl.config.lazy.LAZY_CONFIGS", lazy)
    monkeypatch.setattr("panoptic_dl.config.builder.ALLOWED", ["panoptic_dl.models"])
    cfg = compose(["backbone=plain", "dataset=toy_cityscapes", f"task={task}", "backbone.width=8"])
    assert cfg.name == f"toy_cityscapes_{task}_plain_conv"
    model = build(cfg.task.model).eval()
    assert model.backbone.conv1.weight.shape[0] == 8
    with torch.no_grad():
        (output,) = model([{"image": torch.zeros(3, 64, 96), "height": 64, "width": 96}])
    assert output["sem_seg"].shape == (19, 64, 96)


def test_the_readme_is_short_and_its_links_exist():
    assert len(README.splitlines()) <= 120
    targets = re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", README)
    assert len(targets) > 20
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_published_table_is_the_published_figures():
    table = PUBLISHED.partition("## Published figures, not yet reproduced here")[2]
    published = yaml.safe_load((ROOT / "tests" / "recipes" / "published.yaml").read_text())
    columns = ["PQ", "SQ", "RQ", "mIoU", "AP", "box_AP", "mask_AP"]
    for row, figures in published.items():
        (line,) = re.findall(rf"^\| `{row}`.*$", table, re.MULTILINE)
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells == [str(figures.get(column, "")) for column in columns], row
        assert (ROOT / "conf" / "experiment" / f"{row}.yaml").is_file(), row


def test_commands_for_those_who_come_from_elsewhere_compose():
    table = COMING_FROM.partition("## Commands")[2].partition("## Python")[0]
    cells = [
        line.split(" | ")[-1] for line in re.findall(r"^\| ([A-Z].*) \|$", table, re.MULTILINE)
    ]
    commands = [shlex.split(text) for cell in cells for text in re.findall(r"`([^`]+)`", cell)]
    stands_for_a_name = ("=RUN", "=FOLDER", "=NAME", "=x", "=w.pkl", "sweep=")
    composed = []
    for command in commands:
        options = [o for o in command if "=" in o and not o.endswith(stands_for_a_name)]
        chosen = [o if "{" in o else o.split(",")[0] for o in options if "sweep=" not in o]
        OmegaConf.to_container(compose(chosen), resolve=False)
        composed += chosen
    assert len(composed) > 15, composed

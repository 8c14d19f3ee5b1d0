"""What README.md says can be done is done here, with its own text."""

import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.core.settings import GROUPS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def code_of(file: str) -> str:
    """The README's code block whose first line is a comment that starts with `file`."""
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
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


def test_every_option_and_file_that_the_readme_names_exists():
    for experiment in re.findall(r"^\| `(\w+_xception65\w*|\w+_hrnet48\w*)`", README, re.MULTILINE):
        assert (ROOT / "conf" / "experiment" / f"{experiment}.yaml").is_file(), experiment
    for target in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / target).exists(), target
    for group, options in re.findall(r"^\| `(\w+)` \| (`.*) \|$", README, re.MULTILINE):
        for option in re.findall(r"`(\w+)`", options):
            if group in GROUPS and option in ("default", "local"):
                continue
            folders = [ROOT / "conf" / group, ROOT / "lazy_configs" / group]
            assert any((f / f"{option}{s}").is_file() for f in folders for s in (".py", ".yaml")), (
                group,
                option,
            )


def test_the_published_table_is_the_published_figures():
    published = yaml.safe_load((ROOT / "tests" / "recipes" / "published.yaml").read_text())
    columns = ["PQ", "SQ", "RQ", "mIoU", "AP", "box_AP", "mask_AP"]
    for row, figures in published.items():
        (line,) = re.findall(rf"^\| `{row}`.*$", README, re.MULTILINE)
        cells = [cell.strip() for cell in line.split("|")[2:-1]]
        assert cells == [str(figures.get(column, "")) for column in columns], row


def test_commands_of_the_readme_compose():
    commands = re.findall(r"^python run\.py ((?:experiment|backbone)\S.*)$", README, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        OmegaConf.to_container(compose(command.split()), resolve=False)

"""The dashboard of W&B: what would be sent, without a network, and the same table in the docs."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.core.settings import EvaluationSettings
from panoptic_dl.loggers.base import Details, panels, tagged, tagged_pictures
from panoptic_dl.visualize.sheets import Sample
from scripts import wandb_dashboard

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sent(monkeypatch, tmp_path, capsys):
    """The specs that the script prints; any use of the network fails."""
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    arguments = ["--dry-run", "--project", "mine", "--entity", "team", "--sweep", "seeds"]
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", *arguments])
    assert wandb_dashboard.main() == 0
    return json.loads(capsys.readouterr().out)


def shown(sections):
    """Title, tags and pattern of the panels of a spec, by section."""
    found = {}
    for section in sections:
        for panel in section["panels"]:
            config = panel["config"]
            tags = config.get("mediaKeys") or config["metrics"] or [config["metricRegex"]]
            found.setdefault(section["name"], []).append((config["chartTitle"], tags))
    return found


def test_the_workspace_has_each_panel(sent):
    bank = sent["workspace"]["section"]["panelBankConfig"]
    wanted = {}
    for panel in panels():
        wanted.setdefault(panel.section, []).append((panel.title, list(panel.tags)))
    assert shown(bank["sections"]) == wanted
    first = bank["sections"][0]["panels"][0]
    assert first["viewType"] == "Run History Line Plot"
    assert first["config"]["xAxis"] == "iteration"
    (runs,) = sent["workspace"]["section"]["runSets"]
    assert runs["runFeed"]["columnPinned"]["summary:PQ/best"]


def test_the_report_is_of_the_runs_of_the_sweep(sent):
    grids = [b["metadata"] for b in sent["report"]["blocks"] if b["type"] == "panel-grid"]
    assert len(grids) == 1 + len({panel.section for panel in panels()})
    for grid in grids:
        ((chosen,),) = [each["filters"]["filters"] for each in grid["runSets"]]
        assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "group"}, "=")
        assert chosen["value"] == "seeds"
    bars = grids[0]["panelBankSectionConfig"]["panels"]
    assert [bar["viewType"] for bar in bars] == ["Bar Chart", "Bar Chart"]


def test_panels_are_of_tags_that_are_logged(tmp_path):
    """A tag that is renamed would leave an empty panel."""
    step = ("total_loss", "loss_sem_seg", "loss_center", "loss_offset", "lr", "grad_norm", "time")
    step += ("data_time", "images_per_s", "host_memory_MiB", "device_memory_MiB")
    logged = {*tagged(dict.fromkeys(step, 0.0)), "val_PQ/road", "val_IoU/road"}
    metrics = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st", "mIoU", "AP", "box_AP", "mask_AP")
    logged |= set(tagged(dict.fromkeys((*metrics, "ema/PQ", "ema/mIoU"), 0.0)))
    pictures = ["worst", "best", "confusions", "pq_by_class", "iou_by_class"]
    files = [tmp_path / f"{name}.png" for name in pictures]
    for file in files:
        Image.new("RGB", (4, 4)).save(file)
    image = np.zeros((4, 4, 3), np.uint8)
    count = EvaluationSettings().picture_count
    samples = [Sample("street", image, image, image)] * count
    logged |= set(tagged_pictures(Details(samples=samples, pictures=files)))
    for panel in panels():
        for tag in panel.tags:
            assert any(re.fullmatch(tag, name) for name in logged), tag


def test_the_page_shows_the_table():
    text = (ROOT / "docs" / "how-to" / "logging.md").read_text()
    shown = re.search(r"<!-- made: panels -->\n([\s\S]*?)\n<!-- end -->", text)
    assert shown[1] == wandb_dashboard.panel_table()


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setattr(sys, "argv", ["wandb_dashboard.py", "--dry-run"])
    with pytest.raises(SystemExit, match=r"pip install 'panoptic-dl\[wandb\]'"):
        wandb_dashboard.main()

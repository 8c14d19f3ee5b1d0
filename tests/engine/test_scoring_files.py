"""mode=eval predictions=FOLDER: files score as the model that wrote them."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from panoptic_dl.config import build, compose
from panoptic_dl.modes.evaluate import evaluate
from tests.engine.erring import SIZES, Erring, saved
from tests.evaluation.model_outputs import REAL

EVERYTHING = ["evaluation.save=[panoptic,instances,semantic]", "evaluation.official=true"]


def score(
    evaluation: Any, predictions: Path | None, run_dir: Path, weights: str | None = None
) -> dict[str, Any]:
    """What run.py does with a folder of predictions; the model is not called."""
    return evaluate(
        device="cpu",
        model=torch.nn.Identity(),
        evaluation=evaluation,
        weights=weights,
        predictions=None if predictions is None else str(predictions),
        run_dir=str(run_dir),
    )


@pytest.mark.parametrize("dataset", SIZES)
def test_files_for_servers_score_as_the_model_that_wrote_them(tmp_path, config, dataset, caplog):
    caplog.set_level(logging.INFO, logger="panoptic_dl")
    cfg = config(dataset, *EVERYTHING)
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    assert "agree with the official evaluators'" in caplog.text
    assert 5 < summary["metrics"]["PQ"] < 95
    scored = score(
        build(config(dataset, "evaluation.official=true").task.evaluation),
        tmp_path / "model" / "predictions",
        tmp_path / "files",
    )
    assert caplog.text.count("agree with the official evaluators'") == 2
    assert json.dumps(scored["metrics"]) == json.dumps(summary["metrics"])
    assert saved(tmp_path / "files")["results"] == saved(tmp_path / "model")["results"]


def test_predictions_are_not_replaced_by_those_that_are_saved_of_them(tmp_path, config):
    evaluation = build(config("toy_coco", "evaluation.save=panoptic").task.evaluation)
    evaluation(Erring(config("toy_coco")), tmp_path)
    files = sorted((tmp_path / "predictions").rglob("*"))
    with pytest.raises(ValueError, match="choose another run_dir"):
        score(evaluation, tmp_path / "predictions", tmp_path)
    assert sorted((tmp_path / "predictions").rglob("*")) == files


@pytest.mark.parametrize("dataset", SIZES)
def test_semantic_files_alone_score_the_semantic_task(tmp_path, config, dataset):
    cfg = config(dataset, "task=semantic", "evaluation.save=semantic")
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    assert list(summary["metrics"]) == ["mIoU"]
    places = tmp_path / "model" / "predictions", tmp_path / "files"
    scored = score(build(cfg.task.evaluation), *places)
    assert scored["metrics"] == summary["metrics"]


def test_what_files_lack_is_not_scored_and_said(tmp_path, config, caplog):
    cfg = config("toy_cityscapes", "evaluation.save=panoptic")
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    places = tmp_path / "model" / "predictions", tmp_path / "files"
    official = config("toy_cityscapes", "evaluation.official=true")
    scored = score(build(official.task.evaluation), *places)
    assert "Not scored, for there are no such files: instances, semantic" in caplog.text
    assert set(scored["results"]) == {"panoptic_seg"}
    assert scored["metrics"]["PQ"] == summary["metrics"]["PQ"]
    semantic = config("toy_cityscapes", "task=semantic")
    with pytest.raises(ValueError, match="no predictions for"):
        score(build(semantic.task.evaluation), *places)


@pytest.mark.slow
@pytest.mark.skipif(not (REAL / "coco").is_dir(), reason=f"no real data in {REAL}")
def test_real_coco_agrees_with_the_official_evaluators_and_with_its_files(tmp_path):
    overrides = ["dataset=coco", f"dataset.root={REAL}", "train.num_workers=0"]
    cfg = compose([*overrides, *EVERYTHING[1:], "evaluation.save=[panoptic,instances]"])
    summary = build(cfg.task.evaluation)(Erring(cfg), tmp_path / "model")
    assert summary["num_images"] == 100
    assert 5 < summary["metrics"]["PQ"] < 95
    assert 1 < summary["metrics"]["mask_AP"] < 95
    scored = score(
        build(compose(overrides).task.evaluation),
        tmp_path / "model" / "predictions",
        tmp_path / "files",
    )
    assert json.dumps(scored["metrics"]) == json.dumps(summary["metrics"])
    semantic = compose([*overrides, "task=semantic", "evaluation.official=true"])
    figures = build(semantic.task.evaluation)(Erring(semantic), tmp_path / "semantic")["metrics"]
    assert 5 < figures["mIoU"] < 95


def test_files_are_not_looked_at_several_times(tmp_path, config):
    cfg = config("toy_coco", "evaluation.flip=true")
    with pytest.raises(ValueError, match="leave them out with predictions=FOLDER"):
        score(build(cfg.task.evaluation), tmp_path, tmp_path)


@pytest.mark.parametrize(
    ("weights", "predictions", "message"),
    [(None, None, "or predictions=FOLDER"), ("w.pth", "folder", "not both")],
)
def test_one_of_weights_and_predictions_is_needed(tmp_path, weights, predictions, message):
    with pytest.raises(ValueError, match=message):
        score(None, predictions, tmp_path, weights=weights)

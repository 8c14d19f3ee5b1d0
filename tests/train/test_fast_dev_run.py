"""train.fast_dev_run: everything once, on a few images, and nothing that looks like a result."""

import json

import pytest

from tests.runs import SMALL, in_process
from tests.train.tiny_run import TinyEvaluation, run_training


def test_a_few_iterations_in_a_folder_of_their_own(tmp_path):
    evaluation = TinyEvaluation()
    for _ in range(2):  # the second replaces the first
        run_training(tmp_path, iterations=1000, fast_dev_run=True, evaluation=evaluation)
    assert evaluation.limit == 4
    assert evaluation.calls == 4
    assert [p.name for p in tmp_path.iterdir()] == ["fast_dev_run"]
    folder = tmp_path / "fast_dev_run"
    assert {p.name for p in folder.glob("*.pth")} == {
        *("model_0000001.pth", "model_0000003.pth", "model_best.pth", "model_final.pth")
    }
    assert len((folder / "metrics.json").read_text().splitlines()) >= 4
    real = TinyEvaluation()
    run_training(tmp_path, evaluation=real)  # the real run may come in the same folder
    assert real.limit is None


@pytest.mark.parametrize(
    ("dataset", "task"),
    [
        ("toy_cityscapes", "panoptic"),
        ("toy_coco", "semantic"),
        pytest.param("toy_cityscapes", "semantic", marks=pytest.mark.slow),
        pytest.param("toy_coco", "panoptic", marks=pytest.mark.slow),
    ],
)
def test_on_every_dataset_and_task(tmp_path, toy, dataset, task):
    saved = "[panoptic,instances]" if task == "panoptic" else "semantic"
    overrides = [*SMALL, *toy[dataset], f"task={task}", "dataset.root.num_val=6"]
    extras = ["train.ema=0.9", "evaluation.official=true", f"evaluation.save={saved}"]
    results = in_process(tmp_path, *overrides, *extras, "train.fast_dev_run=true")
    said = "fast_dev_run: 4 of 6 images, no result"
    assert results["num_images"] == 4
    assert results["no_result"] == said
    assert results["published"] is None
    for folder in (tmp_path / "fast_dev_run", tmp_path / "fast_dev_run" / "ema"):
        summary = json.loads((folder / "results.json").read_text())
        assert next(iter(summary)) == "no_result"
        for name in ("results.md", "results.csv"):
            assert said in (folder / name).read_text().splitlines()[0]
        assert (folder / "predictions.png").is_file()
        assert list((folder / "pictures").iterdir())
        assert any((folder / "predictions").iterdir())
    assert said in (tmp_path / "log.txt").read_text()
    assert not (tmp_path / "results.json").exists()
    assert any(key.startswith("ema/") for key in results["metrics"])

"""run.py on data of own categories: all tasks and formats, all means of evaluation, bad input."""

import json

import pytest

from panoptic_dl.core.classes import load_classes
from panoptic_dl.core.run_folder import Ended
from tests.datasets.tiny_custom import CATEGORIES, write_own
from tests.runs import SMALL, in_process

pytestmark = pytest.mark.thorough


def error_of(run_dir, *overrides):
    with pytest.raises(Ended) as end:
        in_process(run_dir, *overrides)
    file = run_dir / "error.txt"  # which a refused start leaves out
    return file.read_text() if file.is_file() else end.value.line


@pytest.mark.parametrize("form", ["coco_format", "cityscapes_format"])
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_own_data_are_trained_on_and_evaluated_by_all_means(tmp_path, form, task):
    root = write_own(tmp_path / "data", form=form, train=3, val=2)
    overrides = [*SMALL, f"dataset={form}", f"task={task}", f"dataset.root={root}"]
    kinds = "[panoptic,instances,semantic]" if task == "panoptic" else "semantic"
    saved = ["evaluation.official=true", f"evaluation.save={kinds}"]
    trained = in_process(tmp_path / "train", *overrides, *saved)
    columns = ["PQ", "SQ", "RQ", "mIoU", "box_AP", "mask_AP"] if task == "panoptic" else ["mIoU"]
    assert list(trained["metrics"])[: len(columns)] == columns
    classes = load_classes(tmp_path / "train" / "classes.json")
    assert sorted(classes.names) == sorted(category["name"] for category in CATEGORIES)
    results = json.loads((tmp_path / "train" / "results.json").read_text())["results"]
    assert {f"IoU-{name}" for name in classes.names} <= set(results["sem_seg"])
    names = (tmp_path / "train" / "results.md").read_text(encoding="utf-8")
    assert "床" in names
    by_weights = in_process(
        tmp_path / "eval", *overrides, "mode=eval", f"weights={tmp_path / 'train'}"
    )
    files = f"predictions={tmp_path / 'train' / 'predictions'}"
    by_files = in_process(tmp_path / "files", *overrides, "mode=eval", files)
    for scored in (by_weights, by_files):
        assert json.dumps(scored["metrics"]) == json.dumps(trained["metrics"])


@pytest.mark.parametrize("kind", ["things", "stuff"])
def test_things_or_stuff_alone_train_with_fewer_images_than_a_batch(tmp_path, kind):
    chosen = [c for c in CATEGORIES if bool(c["isthing"]) == (kind == "things")]
    root = write_own(tmp_path / "data", categories=chosen, train=1, val=1)
    overrides = [*SMALL, "dataset=coco_format", f"dataset.root={root}", "train.batch_size=3"]
    results = in_process(tmp_path / "run", *overrides, "evaluation.official=true")
    other = {"things": "st", "stuff": "th"}[kind]
    assert results["metrics"][f"PQ_{other}"] != results["metrics"][f"PQ_{other}"]  # NaN
    weights = f"weights={tmp_path / 'run'}"
    analysed = in_process(tmp_path / "analysis", *overrides, "mode=analyze", weights)
    assert "metrics" in analysed


def test_a_model_is_timed_where_its_dataset_is_not(tmp_path):
    root = write_own(tmp_path / "data", train=1, val=1)
    overrides = [*SMALL, "dataset=coco_format"]
    in_process(tmp_path / "run", *overrides, f"dataset.root={root}", "train.iterations=1")
    timed = [*overrides, "mode=benchmark", "benchmark.iterations=1", "benchmark.num_scenes=1"]
    timed += ["benchmark.image_size=[64,64]", f"weights={tmp_path / 'run'}"]
    message = error_of(tmp_path / "lost", *timed, f"dataset.root={tmp_path / 'nowhere'}")
    assert "dataset.classes_file=RUN/classes.json" in message
    known = f"dataset.classes_file={tmp_path / 'run' / 'classes.json'}"
    assert "total ms" in in_process(tmp_path / "timed", *timed, known)["metrics"]


def test_another_set_of_classes_is_refused(tmp_path):
    root = write_own(tmp_path / "data", train=1, val=1)
    overrides = [*SMALL, "dataset=coco_format", f"dataset.root={root}"]
    in_process(tmp_path / "run", *overrides, "train.iterations=1")
    for split in ("train", "val"):
        file = root / "annotations" / f"panoptic_{split}.json"
        file.write_text(file.read_text(encoding="utf-8").replace("screw", "bolt"), "utf-8")
    weights = f"weights={tmp_path / 'run'}"
    message = error_of(tmp_path / "eval", *overrides, "mode=eval", weights)
    assert "class 1 is 'bolt', not 'screw'" in message
    message = error_of(tmp_path / "run", *overrides, "resume=true")
    assert "other classes than this run was started with" in message
    file.write_text(file.read_text(encoding="utf-8").replace("bolt", "nail"), "utf-8")
    assert "has other categories than" in error_of(tmp_path / "odd", *overrides)


def test_without_a_root_the_command_says_what_is_needed(tmp_path):
    message = error_of(tmp_path, *SMALL, "dataset=coco_format")
    assert "dataset=coco_format needs dataset.root=FOLDER" in message

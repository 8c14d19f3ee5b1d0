"""scripts/import_dataset.py: a copy of a dataset in COCO's panoptic format, with its images."""

from pathlib import Path

from detectron2.data import DatasetCatalog

from panoptic_dl.config import build, compose
from tests.datasets.formats import exports


def test_the_copy_for_other_programs_is_a_dataset(tmp_path, run_script):
    root, out = tmp_path / "export", tmp_path / "out"
    exports.roboflow_coco(root, exports.draw(4), exports.draw(2, "other"))
    code, text, err = run_script("import_dataset.py", root, out, "background=void", "stuff=[box]")
    assert code == 0, err
    assert text.splitlines()[-1] == f"ready: python run.py dataset=coco_format dataset.root={out}"
    config = compose(["dataset=coco_format", f"dataset.root={out}"])
    classes = build(config.dataset.classes)
    assert (classes.names, classes.thing_ids) == (("ball", "box"), (0,))
    records = DatasetCatalog.get(build(config.dataset.train.panoptic))
    assert len(records) == 4
    assert all(Path(r["file_name"]).is_relative_to(out / "images") for r in records)
    torn = tmp_path / "torn"
    exports.ultralytics(torn / "inside", exports.draw(4), exports.draw(2, "other"))
    (torn / "inside" / "labels" / "val" / "other_000.txt").write_text("x")
    for words, message in (
        ([torn, tmp_path / "x"], f"dataset=yolo lies one folder deeper than {torn}"),
        ([torn / "inside", tmp_path / "x"], "'x' is not numbers"),
        ([Path(__file__), tmp_path / "x"], "is a file: unpack"),
        ([root, tmp_path / "x", "--dataset", "labelme", "stuff=[x]"], "no JSON file of LabelMe"),
        ([root, out], f"{out} exists: name a new folder"),
        ([out, tmp_path / "x"], "is COCO's panoptic format, which is read as it is"),
        ([tmp_path / "none", tmp_path / "x"], "is no export that is known; formats are"),
        ([root, tmp_path / "x", "backgrund=void"], "unexpected keyword argument 'backgrund'"),
        ([root, tmp_path / "x", "void"], "write KEY=VALUE"),
    ):
        code, _, err = run_script("import_dataset.py", *words)
        assert code == 1
        assert message in err
        assert not (tmp_path / "x").exists()

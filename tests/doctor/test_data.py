"""Datasets: each fault is found in its own check alone, and named; files are opened in order."""

import os
import shutil
import signal

import pytest
from PIL import Image

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.custom import custom_classes
from panoptic_dl.doctor import data
from panoptic_dl.doctor.context import Split
from tests.datasets.tiny_custom import edit, register, write_own
from tests.doctor.broken import FAULTS, write_healthy
from tests.doctor.broken.fault import image_of, save_as
from tests.doctor.contexts import dataset_context, results_of, words

KINDS = ("cityscapes", "coco")
ALWAYS = {"train data: classes": "warn", "val data: classes": "warn"}  # tiny: few classes


@pytest.fixture
def copied(healthy, tmp_path):
    def copy(kind):
        shutil.copytree(healthy[kind] / kind, tmp_path / kind)
        return tmp_path

    return copy


def odd_rows(rows):
    """Rows that are neither green nor waiting for another."""
    found = {title: row.state.value for title, row in rows.items()}
    return {title: state for title, state in found.items() if state in ("warn", "FAIL")}


@pytest.mark.parametrize("task", ["panoptic", "semantic"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_healthy_dataset_is_green(healthy, kind, task):
    rows = results_of(data.checks(), dataset_context(healthy[kind], kind, task))
    assert odd_rows(rows) == ALWAYS
    assert {row.state.value for row in rows.values()} == {"ok", "warn"}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_is_found_in_its_row_alone(copied, fault):
    root = copied(fault.kind)
    named = fault.break_it(root)
    rows = results_of(data.checks(), dataset_context(root, fault.kind))
    first = next(iter(fault.rows))
    split = first.partition(" data")[0]
    always = {k: v for k, v in ALWAYS.items() if "layout" not in first or not k.startswith(split)}
    if fault.rows[first] == "warn":
        always = ALWAYS
    assert odd_rows(rows) == {**always, **fault.rows}
    assert named in words(rows[first]), words(rows[first])
    assert rows[first].hint
    waiting = [row for row in rows.values() if row.state.value == "not checked"]
    assert all("needs" in row.found for row in waiting)
    if "layout" in first and fault.rows[first] == "FAIL":
        assert len(waiting) > 5
    else:  # behind the fault, in that image alone
        assert all(" in 1 of " in row.found for row in waiting), waiting


@pytest.mark.parametrize(("mode", "kind"), [("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "PNG")])
def test_images_that_are_read_well_are_no_problem(copied, mode, kind):
    root = copied("coco")
    save_as(image_of(root), mode, kind)
    rows = results_of(data.checks(), dataset_context(root, "coco"))
    assert odd_rows(rows) == ALWAYS
    assert rows["train data: image modes"].found == f"3 RGB, 1 {mode}"


@pytest.mark.parametrize(
    ("pattern", "archive", "others"),
    [
        ("gtFine/train/bonn/*_labelTrainIds.png", "prepare_cityscapes", "unzip"),
        ("gtFine/cityscapes_panoptic_train/bonn*.png", "prepare_cityscapes", "unzip"),
        ("leftImg8bit/train/bonn/*.png", "leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest"),
    ],
)
def test_the_archive_of_the_file_of_wrong_size_is_named(copied, pattern, archive, others):
    root = copied("cityscapes")
    (file,) = (root / "cityscapes").glob(pattern)
    Image.open(file).resize((1, 1), 0).save(file)
    rows = results_of(data.checks(), dataset_context(root, "cityscapes"))
    sizes = rows["train data: sizes"]
    assert sizes.state.value == "FAIL"
    assert str(file) in words(sizes)
    assert archive in sizes.hint
    assert others not in sizes.hint
    waiting = {name for name, row in rows.items() if row.state.value == "not checked"}
    hidden = {
        "labelTrainIds": {"semantic labels", "agreement"},
        "panoptic": {"label ids", "areas", "agreement"},
    }
    behind = next((kinds for kind, kinds in hidden.items() if kind in file.name), set())
    assert waiting == {
        f"train data: {name}" for name in behind | ({"agreement"} if behind else set())
    }
    if behind:
        assert rows["train data: agreement"].found == "needs train data: sizes, in 1 of 3 images"


def test_several_segments_of_one_stuff_class_are_named(tmp_path, caplog):
    write_own(tmp_path, train=2, val=2)
    for split in ("train", "val"):
        edit(tmp_path, lambda c: [k.update(isthing=0) for k in c["categories"]], split=split)
    rows = results_of(data.checks(), custom_context(tmp_path))
    found = rows["val data: things and stuff"]
    assert found.state.value == "warn"
    assert (
        "images have several segments of one stuff class, such as 3 of stuff 'red box' in"
        in found.found
    )
    assert found.found in caplog.text  # what every run says at its start
    assert "isthing" in found.hint
    assert "val data: things and stuff" not in results_of(
        data.checks(), custom_context(tmp_path, task="semantic")
    )


def test_more_objects_than_a_model_finds_are_named_with_the_keys(tmp_path):
    write_own(tmp_path, train=2, val=2)
    context = custom_context(tmp_path)
    rows = results_of(data.checks(), context)
    found = rows["val data: objects"].found
    most = int(found.split()[0])
    assert (rows["val data: objects"].state.value, found) == ("ok", f"{most} in an image at most")
    context.top_k = most
    row = results_of(data.checks(), context)["val data: objects"]
    assert row.state.value == "warn"
    assert f"images have dataset.top_k={most} objects or more, of which a model finds" in row.found
    assert row.hint == f"dataset.top_k={most + most // 4 + 1} dataset.label_divisor=1000"
    context.splits["val"].metadata["label_divisor"] = most
    many = context.splits["val"].records[0]["segments_info"] * 700
    context.splits["val"].records[0]["segments_info"] = many
    assert data._check_objects("val", context).hint.endswith(" dataset.label_divisor=10000")


def test_a_split_for_a_server_has_no_rows_of_truth(tmp_path):
    write_own(tmp_path, train=2, val=2)
    edit(tmp_path, lambda c: c.pop("annotations"), split="val")
    rows = {
        title: row.state.value
        for title, row in results_of(data.checks(), custom_context(tmp_path)).items()
        if title.startswith("val")
    }
    assert set(rows.values()) == {"ok"}, rows


def test_each_format_has_its_faults():
    assert len(FAULTS) == len({fault.name for fault in FAULTS})
    assert {fault.kind for fault in FAULTS} == set(KINDS)


FORMS = ("coco_format", "cityscapes_format")


def custom_context(root, form="coco_format", task="panoptic"):
    context = dataset_context(root, "coco", task)
    context.choice = {**context.choice, "dataset": form}
    classes = custom_classes(form=form, root=str(root), train_split="train", test_split="val")
    context.parts = {
        **context.parts,
        "train": lambda: register(root, form, "train", task),
        "val": lambda: register(root, form, "test", task),
        "classes": lambda: classes,
    }
    return context


def red(rows):
    return {title for title, row in rows.items() if row.state.value == "FAIL"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_areas_crowds_and_sizes_need_not_be_listed(tmp_path, form, task):
    write_own(tmp_path, form=form, train=4, val=2)  # which leaves many out
    rows = results_of(data.checks(), custom_context(tmp_path, form, task))
    assert not red(rows), {title: words(rows[title]) for title in red(rows)}
    assert not [t for t, row in rows.items() if row.state.value == "not checked"]


def test_what_is_listed_must_be_right(tmp_path):
    write_own(tmp_path, train=4, val=2)

    def wrong(content):
        content["annotations"][0]["segments_info"][0]["area"] = 3
        content["images"][1] |= {"height": 5, "width": 5}

    edit(tmp_path, wrong)
    assert red(results_of(data.checks(), custom_context(tmp_path))) == {
        "train data: areas",
        "train data: sizes",
    }


def test_the_cure_of_a_wrong_entry_is_in_the_own_file(tmp_path):
    write_own(tmp_path, train=2, val=2)
    context = custom_context(tmp_path)
    edit(tmp_path, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=5))
    rows = results_of(data.checks(), context)
    assert "category_id 5" in words(rows["train data: layout"])
    assert "docs/how-to/formats.md" in rows["train data: layout"].hint


def test_labels_without_any_class_are_a_fault(tmp_path):
    write_own(tmp_path, train=2, val=2)
    context = custom_context(tmp_path)
    edit(tmp_path, lambda c: [a.update(segments_info=[]) for a in c["annotations"]])
    rows = results_of(data.checks(), context)
    assert "no class occurs" in words(rows["train data: classes"])
    assert rows["train data: classes"].state.value == "FAIL"


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """Twenty images of which every third is torn."""
    folder = tmp_path_factory.mktemp("many")
    records = []
    for index in range(20):
        file = folder / f"{index:02d}.png"
        Image.new("RGB", (8, 8), (index, 0, 0)).save(file)
        if index % 3 == 0:
            file.write_bytes(file.read_bytes()[:40])
        records.append({"file_name": str(file), "image_id": index})
    return Split("train", "none", records, {"stuff_classes": ["a", "b"]})


def names(reports):
    return [(report.file_name, len(report.problems), report.digest) for report in reports]


def look(split, **options):
    return data._open_files(split, **{"sample": None, "workers": 1} | options)


def test_processes_say_what_one_says_in_the_same_order(split, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    alone = names(look(split))
    assert [problems for _, problems, _ in alone] == [int(i % 3 == 0) for i in range(20)]
    assert names(look(split, workers=3)) == alone
    assert names(look(split, workers=64)) == alone


def test_a_sample_is_always_the_same_and_in_order(split):
    chosen = [r.file_name for r in look(split, sample=7)]
    assert chosen == [r.file_name for r in look(split, sample=7, workers=2)]
    assert chosen == sorted(set(chosen))
    assert len(chosen) == 7
    assert len(look(split, sample=1000)) == 20


def die(record, size, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_an_error_with_a_hint(split, monkeypatch):
    monkeypatch.setattr(data, "CHUNK", 2)
    monkeypatch.setattr(data, "check_files", die)
    with pytest.raises(DatasetError, match=r"was killed[\s\S]*doctor\.workers=1"):
        look(split, workers=2)


def test_rows_of_a_scan_that_failed_are_not_green(tmp_path, monkeypatch):
    monkeypatch.setattr("panoptic_dl.doctor.data._open_files", lambda *a, **k: 1 / 0)
    rows = results_of(data.checks(), dataset_context(write_healthy(tmp_path, "coco"), "coco"))
    for name in ("sizes", "labels", "label ids", "areas", "image modes", "orientation"):
        assert rows[f"train data: {name}"].state.value == "not checked", name
    assert rows["train data: images"].found == "ZeroDivisionError: division by zero"

"""Own data: what they may leave out is no fault, and what is wrong is cured in their own files."""

import pytest

from panoptic_dl.datasets.custom import custom_classes
from panoptic_dl.doctor.doctor import data_checks
from tests.datasets.tiny_custom import edit, register, write_own

from .patients import examined, patient_of, words

FORMS = ("coco_format", "cityscapes_format")


def own_patient(root, form="coco_format", task="panoptic"):
    patient = patient_of(root, "coco", task)
    patient.choice = {**patient.choice, "dataset": form}
    classes = custom_classes(form=form, root=str(root), train_split="train", test_split="val")
    patient.parts = {
        **patient.parts,
        "train": lambda: register(root, form, "train", task),
        "val": lambda: register(root, form, "test", task),
        "classes": lambda: classes,
    }
    return patient


def red(rows):
    return {title for title, row in rows.items() if row.verdict.state.value == "FAIL"}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("task", ["panoptic", "semantic"])
def test_areas_crowds_and_sizes_need_not_be_listed(tmp_path, form, task):
    write_own(tmp_path, form=form, train=4, val=2)  # which leaves many out
    rows = examined(data_checks(), own_patient(tmp_path, form, task))
    assert not red(rows), {title: words(rows[title]) for title in red(rows)}
    assert not [t for t, row in rows.items() if row.verdict.state.value == "not checked"]


def test_what_is_listed_must_be_right(tmp_path):
    write_own(tmp_path, train=4, val=2)

    def wrong(content):
        content["annotations"][0]["segments_info"][0]["area"] = 3
        content["images"][1] |= {"height": 5, "width": 5}

    edit(tmp_path, wrong)
    assert red(examined(data_checks(), own_patient(tmp_path))) == {
        "train data: areas",
        "train data: sizes",
    }


def test_the_cure_of_a_wrong_entry_is_in_the_own_file(tmp_path):
    write_own(tmp_path, train=2, val=2)
    patient = own_patient(tmp_path)
    edit(tmp_path, lambda c: c["annotations"][0]["segments_info"][0].update(category_id=5))
    rows = examined(data_checks(), patient)
    assert "category_id 5" in words(rows["train data: layout"])
    assert "docs/custom_dataset.md" in rows["train data: layout"].verdict.cure


def test_labels_without_any_class_are_a_fault(tmp_path):
    write_own(tmp_path, train=2, val=2)
    patient = own_patient(tmp_path)
    edit(tmp_path, lambda c: [a.update(segments_info=[]) for a in c["annotations"]])
    rows = examined(data_checks(), patient)
    assert "no class occurs" in words(rows["train data: classes"])
    assert rows["train data: classes"].verdict.state.value == "FAIL"

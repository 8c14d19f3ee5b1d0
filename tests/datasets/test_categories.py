"""Contiguous ids of any table of categories: one for each, the same in every file and order."""

import json

import pytest
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES, _get_builtin_metadata
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from panoptic_dl.core.errors import DatasetError
from panoptic_dl.datasets.categories import _distinct_colors, class_metadata, read_categories
from tests.datasets.tiny_custom import CATEGORIES

LETTERS = st.characters(exclude_categories=("C", "Zl", "Zp"))
COLORS = st.lists(st.integers(0, 255), min_size=3, max_size=3)
TABLES = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.integers(0, 2**53),
            "name": st.text(LETTERS, min_size=1, max_size=12).filter(str.strip),
            "isthing": st.sampled_from([0, 1, True, False]),
        },
        optional={"color": st.none() | COLORS, "supercategory": st.text(max_size=3)},
    ),
    min_size=1,
    max_size=40,
    unique_by=(lambda category: category["id"], lambda category: category["name"]),
)
QUICK = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(file, categories):
    """A panoptic file; what is not about categories is not looked at here."""
    content = {"images": [{"id": 1}], "annotations": [{}], "categories": categories}
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@QUICK
@given(table=TABLES, data=st.data())
def test_ids_are_a_bijection_that_no_order_changes(tmp_path, table, data):
    train, val = tmp_path / "train.json", tmp_path / "val.json"
    write(train, table)
    write(val, data.draw(st.permutations(table)))
    found = read_categories(train)
    number = len(table)
    assert sorted(found.category_ids) == sorted(category["id"] for category in table)
    assert len(found) == number
    for category in table:
        index = found.category_ids.index(category["id"])
        assert found.names[index] == category["name"]
        assert (index in found.thing_ids) == bool(category["isthing"])
        if category.get("color"):
            assert list(found.colors[index]) == category["color"]
    assert found.thing_ids == tuple(range(len(found.thing_ids)))
    assert read_categories(val) == found
    metadata = class_metadata(found)
    both = {
        **metadata["thing_dataset_id_to_contiguous_id"],
        **metadata["stuff_dataset_id_to_contiguous_id"],
    }
    assert both == {category: index for index, category in enumerate(found.category_ids)}
    semantic = class_metadata(found, semantic=True)
    assert semantic["stuff_dataset_id_to_contiguous_id"] == both


def test_coco_comes_out_as_in_detectron2(tmp_path):
    found = class_metadata(read_categories(write(tmp_path / "a.json", COCO_CATEGORIES[::-1])))
    for key, value in _get_builtin_metadata("coco_panoptic_standard").items():
        assert found[key] == value, key


@QUICK
@given(
    number=st.integers(1, 255), taken=st.lists(st.tuples(*[st.integers(0, 255)] * 3), max_size=9)
)
def test_chosen_colors_differ_from_each_other_and_from_given_ones(number, taken):
    colors = _distinct_colors(number, taken)
    assert len(set(colors)) == number
    assert not set(colors) & set(taken)
    assert colors == _distinct_colors(number, taken)
    assert not set(_distinct_colors(1, colors)) & set(colors)


def test_the_first_chosen_colors_are_far_apart():
    colors = _distinct_colors(12)
    pairs = [(a, b) for i, a in enumerate(colors) for b in colors[:i]]
    assert min(sum(abs(x - y) for x, y in zip(a, b, strict=True)) for a, b in pairs) > 80


def changed(**entries):
    return [CATEGORIES[0] | entries, *CATEGORIES[1:]]


def without(key):
    return [{k: v for k, v in CATEGORIES[0].items() if k != key}, *CATEGORIES[1:]]


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (
            without("isthing"),
            r"category 901 \('Förderband'\): \"isthing\" is None; it must be 1 if",
        ),
        (changed(isthing="yes"), r"category 901 .*\"isthing\" is 'yes'"),
        (changed(isthing=2), r"\"isthing\" is 2"),
        (
            without("id"),
            r"category None \('Förderband'\): \"id\" is None; it must be a whole number",
        ),
        (changed(id="901"), r"category '901' .*whole number"),
        (changed(id=-1), r"category -1 .*whole number"),
        (changed(id=True), r"category True .*whole number"),
        (without("name"), r"category 901 \(None\): \"name\" is None; it must be a text"),
        (changed(name=" "), r"\"name\" is ' '; it must be a text"),
        (
            changed(name="car \ud83d"),
            r"category 901 \('car \\ud83d'\): \"name\" is .* halves of emojis",
        ),
        (changed(name="a\x1b[2J"), "must be a text without control characters"),
        (changed(name="a\nb"), r"odd.json: category 901 .*control characters"),
        (changed(id=7), r"two categories have the \"id\" 7; give each its own"),
        (changed(name="screw"), r"two categories have the \"name\" 'screw'; rename one"),
        (changed(color="red"), r"\"color\" is 'red'; it must be \[red, green, blue\]"),
        (changed(color=[1, 2, 256]), r"\"color\" is \[1, 2, 256\]"),
        (changed(color=[1, 2, 3.5]), r"\"color\" is \[1, 2, 3.5\]"),
        ([], r"its \"categories\" are missing or empty"),
        ([3], r"3 in \"categories\" is no object"),
        (
            [{"id": i, "name": str(i), "isthing": 1} for i in range(256)],
            "has 256 categories; labels have 8 bits, so at most 255",
        ),
    ],
)
def test_what_makes_no_classes_is_named(tmp_path, categories, message):
    file = write(tmp_path / "odd.json", categories)
    with pytest.raises(DatasetError, match=message) as caught:
        read_categories(file)
    assert str(file) in str(caught.value)


def test_most_classes_are_255(tmp_path):
    table = [{"id": i, "name": str(i), "isthing": i % 2} for i in range(255)]
    assert len(read_categories(write(tmp_path / "a.json", table))) == 255


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable JSON file"),
        ('{"categories": [', "not a readable JSON file"),
        ("[]", "holds no object"),
        ('{"images": {}, "annotations": [], "categories": []}', r"\"images\" are missing"),
        ("[" * 100_000, "not a readable JSON file"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, text, message):
    (tmp_path / "torn.json").write_text(text)
    with pytest.raises(DatasetError, match=message):
        read_categories(tmp_path / "torn.json")


def test_a_file_is_parsed_once_until_it_changes(tmp_path, monkeypatch):
    from panoptic_dl.datasets import categories as module

    calls = []
    read = module.read_annotations
    monkeypatch.setattr(module, "read_annotations", lambda *args: calls.append(args) or read(*args))
    file = write(tmp_path / "a.json", CATEGORIES)
    for _ in range(3):
        read_categories(file)
    assert len(calls) == 1
    write(file, CATEGORIES[1:])
    assert len(read_categories(file).category_ids) == len(CATEGORIES) - 1
    assert len(calls) == 2

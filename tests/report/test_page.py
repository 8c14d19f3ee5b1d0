"""The HTML page: one small file that does nothing that its runs' names want."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest

from panoptic_dl.core.files import temporary_path
from panoptic_dl.report.runs import collect
from panoptic_dl.report.tables import build_tables, differing_settings
from scripts.report import LIMIT, _render_page, make_report

from .run_folders import make_pictures, make_run, results_of

CONV, OTHER = "cityscapes_panoptic_xception65_conv", "cityscapes_panoptic_hrnet48_conv"
EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'"
VOID = {"meta", "link", "img"}  # the SVG of charts closes its elements itself


class Reader(HTMLParser):
    """Elements and attributes of a page, which must be nested well."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def page_of(*folders, **options):
    collected = collect(folders)
    return _render_page(build_tables(collected.runs), collected, made="now", **options)


def test_it_is_one_well_formed_file_without_addresses(tmp_path):
    make_run(tmp_path / "run", pictures=["a"])
    make_run(tmp_path / "toy", "toy_coco_panoptic_hrnet_tiny_conv", pictures=["b"])
    text, notes = page_of(tmp_path)
    assert notes == []
    assert not re.search(r"https?:|url\(|@import", text)
    page = Reader(text)
    for _, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name != "style"
            if name in ("src", "href"):
                assert value.startswith(("data:", "#")), value
    targets = {attributes.get("id") for _, attributes in page.elements}
    links = [attributes["href"] for attributes in page.of("a")]
    assert links
    assert all(link[1:] in targets for link in links)
    assert not {"iframe", "object", "form", "base"} & {tag for tag, _ in page.elements}


def test_its_policy_allows_its_own_texts_and_nothing_else(tmp_path):
    make_run(tmp_path)
    text, _ = page_of(tmp_path)
    policy = next(a["content"] for a in Reader(text).of("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; img-src data:; ")
    assert not re.search(r"unsafe|\*", policy)
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_everything_of_runs_is_escaped(tmp_path):
    results = results_of(EVIL, {"PQ": 60.0}, classes=(EVIL, "car"))
    make_run(
        tmp_path / "evil<b>&run",
        status="finished",
        name=EVIL,
        row=EVIL,
        command=EVIL,
        overrides=[EVIL],
        choices={"dataset": EVIL, "task": EVIL, "backbone": EVIL, "head": EVIL},
        environment={EVIL: EVIL, "device": EVIL},
        train={EVIL: EVIL, "iterations": 1, "batch_size": 1},
        git={"revision": EVIL, "changed": True},
        config_hash=EVIL,
        metrics={"PQ": 60.0},
        results=results,
        settings={EVIL: EVIL},
        pictures=["a<b>"],
        lines=[{"iteration": 0, "total_loss": 1.0, f"loss_{EVIL}": 1.0}],
    )
    make_run(tmp_path / "two", row=EVIL, choices={"dataset": EVIL, "task": EVIL}, settings={"x": 1})
    make_run(tmp_path / "bad", status="failed", error=EVIL, metrics={}, row=EVIL)
    (tmp_path / "worse<i>").mkdir()
    (tmp_path / "worse<i>" / "run.json").write_text(json.dumps({"format": EVIL}))
    text, _ = page_of(tmp_path)
    page = Reader(text)
    assert len(page.of("script")) == 1
    assert not page.of("i")
    assert all(a["src"].startswith("data:image/jpeg;base64,") for a in page.of("img"))
    assert EVIL in "".join(page.text)


@pytest.mark.thorough
def test_it_stays_within_its_limit_and_says_what_is_left_out(tmp_path):
    for number in range(2):
        names = [f"image{i}" for i in range(7)]
        make_run(tmp_path / f"{number}", seed=number, pictures=names)
    whole, notes = page_of(tmp_path)
    assert notes == []
    assert len(whole.encode()) < LIMIT
    assert whole.count('class="example"') == 6
    assert "1 more image of it" in whole
    for share in (0.99, 0.4, 0.02):
        limit = int(share * len(whole.encode()))
        text, notes = page_of(tmp_path, limit=limit)
        assert len(text.encode()) <= limit
        assert notes[0].startswith("To stay below 5 MB this page shows less than it could")
        assert notes[0] in "".join(Reader(text).text)
    assert "pictures (none)" in notes[0]
    assert not Reader(text).of("img")


def test_too_many_runs_are_an_error_that_says_what_to_do(tmp_path):
    make_run(tmp_path)
    with pytest.raises(ValueError, match="report fewer folders at once"):
        page_of(tmp_path, limit=1000)


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    folder = make_run(tmp_path, pictures=["good", "torn", "none"])
    gallery = folder / "pictures" / "gallery"
    data = (gallery / "torn_prediction.jpg").read_bytes()
    (gallery / "torn_prediction.jpg").write_bytes(data[: len(data) // 2])
    (gallery / "none_truth.jpg").write_text("no picture")
    text, notes = page_of(tmp_path)
    assert [note.split(" cannot")[0] for note in notes] == [
        f"{tmp_path.name}: none_truth.jpg",
        f"{tmp_path.name}: torn_prediction.jpg",
    ]
    assert all(str(tmp_path) not in note for note in notes)
    assert text.count('class="example"') == 2


def test_each_image_and_truth_is_in_the_page_once(tmp_path):
    for number in range(3):
        make_run(tmp_path / f"{number}", seed=number, pictures=["a", "b"])
    text, _ = page_of(tmp_path)
    sources = [attributes["src"] for attributes in Reader(text).of("img")]
    assert len(sources) == len(set(sources)) == 2 * (2 + 3)


KINDS = ("md", "csv", "tex", "html")


@pytest.mark.parametrize("kind", KINDS)
def test_the_report_writes_four_files_whole(tmp_path, kind):
    run = make_run(tmp_path / "run")
    _, files, _ = make_report([run], tmp_path / "out")
    assert [file.name for file in files] == [f"report.{kind}" for kind in KINDS]
    file = tmp_path / "out" / f"report.{kind}"
    before = file.read_bytes()
    make_run(tmp_path / "run", metrics={"PQ": 1.0})
    temporary_path(file).mkdir()  # as a full disk: the new one is not written
    with pytest.raises(OSError, match=rf"report\.{kind}"):
        make_report([run], tmp_path / "out")
    assert file.read_bytes() == before


def test_benchmarks_are_drawn_against_quality_and_damaged_ones_named(tmp_path):
    make_run(tmp_path / "run")
    make_run(tmp_path / "other", OTHER, metrics={"PQ": 63.0})
    for name, row, rate in (("fast", CONV, 7.25), ("slow", OTHER, 5.0)):
        folder = make_run(tmp_path / name, row, mode="benchmark")
        stages = {"total": {"images_per_s": rate}}
        content = {"machine": "a GPU", "image_size": [1024, 2048], "stages": stages}
        (folder / "benchmark.json").write_text(json.dumps(content))
    make_run(tmp_path / "torn", CONV, mode="benchmark")
    _, _, notes = make_report([tmp_path], tmp_path / "out")
    text = (tmp_path / "out" / "report.html").read_text()
    charts = [json.loads(each["data-chart"]) for each in Reader(text).of("figure") if each]
    (chart,) = [each for each in charts if each["kind"] == "front"]
    assert chart["title"] == "PQ over images/s, 1024 x 2048 pixels, a GPU"
    assert [(dot["name"], dot["points"]) for dot in chart["series"]] == [
        ("Xception-65", [[7.25, 62.6]]),
        ("HRNet-48", [[5.0, 63.0]]),
    ]
    (note,) = notes
    assert note.startswith("torn is unreadable: benchmark.json")


def test_only_settings_that_differ_are_shown_and_copies_once():
    one = {"train.batch_size": "8", "task.loader.batch_size": "8", "run_dir": "a", "x": "1"}
    two = {"train.batch_size": "4", "task.loader.batch_size": "4", "run_dir": "b", "x": "1"}
    assert differing_settings([one, two]) == [("train.batch_size", ("8", "4"))]
    both = differing_settings([one, two | {"task.loader.batch_size": "2"}])
    assert both[1][0] == "task.loader.batch_size"
    assert differing_settings([{"seed": "0"}, {"seed": "1", "new": "2"}]) == [
        ("seed", ("0", "1")),
        ("new", ("", "2")),
    ]


def test_pictures_of_an_evaluation_that_names_no_dataset(tmp_path):
    folder = make_run(tmp_path, results={"metrics": {"PQ": 1.0}})
    make_pictures(folder, "a", size=(1, 1))
    text, notes = page_of(tmp_path)
    assert notes == []
    assert "Cityscapes, panoptic, conv" in text

"""scripts/report.py as a user starts it, and the page as a browser shows it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from scripts.report import make_report
from tests.report.run_folders import make_run, results_of, steps

from .browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[2]
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
SHOWN = "[...document.querySelectorAll('.badge')].map(badge => badge.textContent)"
PRESSED = "document.querySelector('.toolbar [aria-pressed=true]').dataset.show"


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, "scripts/report.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_tables_are_printed_and_files_named(tmp_path):
    make_run(tmp_path / "runs" / "good")
    (tmp_path / "runs" / "old").mkdir()
    (tmp_path / "runs" / "old" / "metrics.json").write_text("")
    done = run_script(tmp_path / "runs", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "| Xception-65 | good |" in " ".join(done.stdout.split())
    assert "note: old is unreadable: it has no run.json" in done.stderr
    for kind in ("md", "csv", "tex", "html"):
        assert f"saved {tmp_path}/out/report.{kind}" in done.stdout


def test_a_report_does_not_wait_for_torch():
    code = "import sys, scripts.report;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    long = "cityscapes_panoptic_xception65_conv,backbone.norm=GN,head.norm=GN,seed="
    for seed in range(2):
        make_run(folder / "runs" / f"{long}{seed}", seed=seed, pictures=["a", "b"])
    toy = "toy_coco_panoptic_hrnet_tiny_conv"
    once = steps(500, {"PQ": 62.6}, count=1)  # curves of one point
    make_run(folder / "runs" / "toy", toy, pictures=["c"], lines=once)
    values = {"PQ-road": 70.0, "PQ-sky": 50.0, "PQ-person": 30.0, "PQ-car": None}
    changed = results_of("toy_coco_val", {"PQ": 50.0}) | {"results": {"panoptic_seg": values}}
    metrics = {"PQ": 50.0, "PQ_th": 40.0}
    make_run(
        folder / "runs" / "toy2",
        toy,
        metrics=metrics,
        results=changed,
        settings={"lr": 2},
        lines=once,
    )
    make_run(folder / "runs" / "<script>alert(1)<", status="failed", error="<b>no", metrics={})
    make_report([folder / "runs"], folder / "out")
    return folder / "out" / "report.html"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, report):
    browser.resize(1280, 900)
    browser.prefer("light")
    browser.open(report)
    return browser


def test_nothing_is_complained_of_and_nothing_asked_for(page):
    assert (
        page.run("document.querySelectorAll('.verdict').length") == 1
    )  # of the published row that was run
    assert page.requests() == []
    assert page.complaints() == []


def test_the_policy_stops_scripts_and_pictures_from_elsewhere(page):
    page.run(
        "window.ran = false; const s = document.createElement('script');"
        "s.textContent = 'window.ran = true'; document.body.append(s);"
        "const i = new Image(); i.src = 'https://example.org/x.png'; document.body.append(i); 0"
    )
    assert page.run("new Promise(r => setTimeout(() => r(window.ran), 200))") is False
    assert any("Content Security Policy" in str(each) for each in page.complaints())


@pytest.mark.parametrize("width", [320, 390, 768, 1280])
def test_no_width_scrolls_sideways(page, width):
    page.resize(width, 844, mobile=width < 500)
    assert page.run(OVERFLOW) <= 0
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true }), 0")
    assert page.run(OVERFLOW) <= 0


def test_on_paper_nothing_is_off_the_page(page):
    page.resize(700, 1000)  # A4 between its margins
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true }), 0")
    wide = "[...document.querySelectorAll('pre, table, .scroll')].filter(e => "
    wide += "e.getBoundingClientRect().right > 700 || e.scrollWidth > e.clientWidth + 1).length"
    assert page.run(wide) > 0
    page("Emulation.setEmulatedMedia", media="print")
    assert page.run(wide) == 0
    page("Emulation.setEmulatedMedia", media="")


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_names_of_rows_stay_in_their_column(page, width):
    page.resize(width, 844, mobile=width < 500)
    wide = "[...document.querySelectorAll('th.stick')].filter(t => t.scrollWidth > t.clientWidth)"
    assert page.run(f"{wide}.map(t => t.textContent)") == []


def test_dark_mode_is_dark(page, tmp_path):
    brightness = {}
    for scheme in ("light", "dark"):
        page.prefer(scheme)
        file = page.picture(tmp_path / f"{scheme}.png")
        with Image.open(file) as picture:
            assert picture.size == (1280, 900)
            brightness[scheme] = picture.convert("L").resize((1, 1)).getpixel((0, 0))
    assert brightness["light"] > 200
    assert brightness["dark"] < 60


def test_the_gallery_is_switched_by_keys(page):
    assert set(page.run(SHOWN)) == {"prediction"}
    page.run("document.querySelector('.toolbar button').focus(), 0")
    page.press("ArrowRight")
    assert (set(page.run(SHOWN)), page.run(PRESSED)) == ({"ground truth"}, "truth")
    same = (
        "[...document.querySelectorAll('.example')].every(e => [...e.querySelectorAll('.tile img')]"
        ".every(i => i.src === e.querySelector('[data-kind=truth]').src))"
    )
    assert page.run(same)
    page.press("ArrowRight")
    assert set(page.run(SHOWN)) == {"image"}
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert set(page.run(SHOWN)) == {"prediction"}
    page.press("Tab")
    page.press("Enter")  # the button of the truth
    assert (set(page.run(SHOWN)), page.run(PRESSED)) == ({"ground truth"}, "truth")


def test_a_single_picture_switches_when_it_is_pressed(page):
    before = page.run("document.querySelector('.tile img').src")
    page.run("document.querySelector('.tile').focus(), 0")
    page.press("Enter")
    assert page.run(SHOWN)[:2] == ["ground truth", "prediction"]
    label = page.run("document.querySelector('.tile').getAttribute('aria-label')")
    assert label.endswith("ground truth of c")
    page.press("Enter")
    page.press("Enter")
    assert page.run("document.querySelector('.tile img').src") == before


def test_arrow_keys_elsewhere_are_left_alone(page):
    page.run("document.querySelector('nav a').focus(), 0")
    page.press("ArrowRight")
    assert set(page.run(SHOWN)) == {"prediction"}


def test_keys_reach_everything_and_the_focus_is_seen(page):
    page.press("Tab")
    assert page.run("document.activeElement.className") == "skip"
    page.press("Enter")
    assert page.run("document.activeElement.id") == "content"
    page.run("document.querySelector('.toolbar button').focus(), 0")
    page.press("Tab")
    assert page.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    unnamed = (
        "[...document.querySelectorAll('button')]"
        ".filter(b => !(b.getAttribute('aria-label') || b.textContent.trim())).length"
    )
    assert page.run(unnamed) == 0


@pytest.mark.parametrize(
    ("end", "shown"), [((60, 310), "ground truth"), ((310, 300), "image"), ((200, 310), "one")]
)
def test_a_swipe_switches_all_pictures_and_a_tap_one(page, end, shown):
    page.resize(390, 844, mobile=True)
    page("Emulation.setTouchEmulationEnabled", enabled=True)
    page.run(
        "document.querySelector('.tile').scrollIntoView({block: 'center', behavior: 'instant'}), 0"
    )
    box = "JSON.stringify(document.querySelector('.tile').getBoundingClientRect())"
    box = json.loads(page.run(f"new Promise(r => setTimeout(() => r({box}), 300))"))
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    across, down = end[0] - 200, end[1] - 310
    page("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    for part in (0.5, 1) if across else ():
        place = {"x": x + part * across, "y": y + part * down}
        page("Input.dispatchTouchEvent", type="touchMove", touchPoints=[place])
    page("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    found = page.run(f"new Promise(r => setTimeout(() => r({SHOWN}), 300))")
    page("Emulation.setTouchEmulationEnabled", enabled=False)
    if shown == "one":
        assert found == ["ground truth"] + ["prediction"] * (len(found) - 1)
    else:
        assert set(found) == {shown}


def test_arrow_keys_switch_the_pictures_that_are_looked_at(page):
    page.press("ArrowRight")  # at the top of the page
    assert set(page.run(SHOWN)) == {"prediction"}
    page.run("document.querySelector('.example').scrollIntoView({behavior: 'instant'}), 0")
    page.press("ArrowRight")
    assert set(page.run(SHOWN)) == {"ground truth"}


def test_columns_are_chosen_on_the_page(page):
    heads = "[...document.querySelectorAll('#others thead th:not([hidden])')]"
    heads += ".map(th => th.textContent)"
    button = "document.querySelector('#columns [data-name={}]')"
    assert page.run(heads) == ["Row", "PQ", "mIoU"]
    page.run(f"{button.format('mIoU')}.click(), {button.format('PQ_th')}.click(), 0")
    assert page.run(heads) == ["Row", "PQ", "PQ th"]
    assert page.run(f"{button.format('mIoU')}.getAttribute('aria-pressed')") == "false"
    ragged = "[...document.querySelectorAll('.metrics')].map(t => new Set([...t.tBodies[0].rows]"
    ragged += ".map(r => [...r.cells].filter(c => !c.hidden).length)).size)"
    assert set(page.run(ragged)) == {1}
    wide = "[...document.querySelector('#published thead').rows].map(r => [...r.cells]"
    wide += ".filter(c => !c.hidden).map(c => c.textContent))"
    assert page.run(wide) == [
        ["Row", "Verdict", "PQ", "SQ", "RQ", "AP"],
        ["own", "publ.", "diff."] * 4,
    ]


MINUS = "\N{MINUS SIGN}"
CHANGES = "[...document.querySelectorAll('#classes section:has(.compare) tbody tr')]"
CHANGES += ".map(r => [r.cells[0].textContent, r.cells[1].textContent, r.cells[1].hidden])"


def test_classes_are_compared_between_two_runs(page):
    assert page.run(CHANGES) == [
        ["road", "+8.4", False],
        ["sky", f"{MINUS}12.6", False],
        ["person", f"{MINUS}33.6", False],
        ["car", "n/a", False],
        ["train", "n/a", False],
    ]
    choose = "for (const [i, v] of [[0, '1'], [1, '0']]) {const s = document.querySelectorAll("
    choose += "'.compare select')[i]; s.value = v; s.dispatchEvent(new Event('change', "
    choose += "{bubbles: true}))} 0"
    page.run(choose)
    assert [row[:2] for row in page.run(CHANGES)][:3] == [
        ["person", "+33.6"],
        ["sky", "+12.6"],
        ["road", f"{MINUS}8.4"],
    ]
    page.run(choose.replace("[0, '1'], ", "[0, ''], "))
    assert {row[2] for row in page.run(CHANGES)} == {True}


def test_charts_show_their_values(page):
    assert page.run("document.querySelectorAll('[data-chart]').length") > 3
    assert page.run("[...document.querySelectorAll('.chart')].every(svg => svg.children.length)")
    numbers = page.run("[...document.querySelector('.numbers').rows].map(row => row.innerText)")
    assert numbers[0].split("\t") == [
        "Run",
        "PQ in percent",
        "total loss",
        "loss sem seg",
        "loss center",
        "lr",
    ]
    page.run("document.querySelector('.chart').focus(), 0")
    tip = "document.querySelector('.tip').hidden ? '' : document.querySelector('.tip').innerText"
    assert page.run(tip) == ""
    page.press("ArrowRight")
    last = page.run(tip)
    page.press("ArrowLeft")
    assert last.startswith("after ")
    assert page.run(tip) not in ("", last)
    page.press("Enter")
    assert page.run("document.querySelector('.plot').classList.contains('large')")
    page.run("document.querySelector('.chart').scrollIntoView({behavior: 'instant'}), 0")
    box = "JSON.stringify(document.querySelector('.chart').getBoundingClientRect())"
    box = json.loads(page.run(box))
    for part, words in ((0.99, last), (2, "")):
        x, y = box["x"] + part * box["width"], box["y"] + box["height"] / 2
        page("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        assert page.run(tip) == words


TICKS = """[[0, 0.3, 4], [0, 90000, 5], [-2, 7, 4], [1e-5, 3e-5, 4], [62.57, 62.64, 4]]
.map(([low, high, most]) => ticks({low, high}, most))"""


def test_ticks_are_few_even_and_short(page):
    assert page.run(TICKS) == [
        [0, 0.1, 0.2, 0.3],
        [0, 20000, 40000, 60000, 80000],
        [0, 2.5, 5],
        [1e-5, 1.5e-5, 2e-5, 2.5e-5, 3e-5],
        [62.58, 62.6, 62.62, 62.64],
    ]


def test_a_table_that_is_cut_off_says_so_until_its_end(page):
    cut = "document.querySelector('#speed .scroller').classList.contains('more')"
    assert page.run(cut) is False
    page.resize(390, 844, mobile=True)
    assert page.run(f"new Promise(r => setTimeout(() => r({cut}), 200))") is True
    page.run("document.querySelector('#speed .scroll').scrollLeft = 9999, 0")
    assert page.run(f"new Promise(r => setTimeout(() => r({cut}), 200))") is False
    stuck = (
        "Math.round(document.querySelector('#speed tbody th').getBoundingClientRect().left) >= 0"
    )
    assert page.run(stuck)


def test_a_command_is_copied(page):
    page("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    page.run("document.querySelectorAll('details').forEach(d => { d.open = true }), 0")
    page.run("document.querySelector('.copy').focus(), 0")
    page.press("Enter")
    said = "new Promise(r => setTimeout(() => r(document.querySelector('.copy').textContent), 200))"
    assert page.run(said) == "Copied"
    command = page.run("document.querySelector('.command code').textContent")
    assert page.run("navigator.clipboard.readText()") == command


def test_a_link_opens_its_run(page):
    page.run("document.querySelector('.run').click(), 0")
    target = "document.querySelector(document.querySelector('.run').getAttribute('href')).open"
    assert page.run(f"new Promise(r => setTimeout(() => r({target}), 100))")


def test_it_prints(page):
    made = page("Page.printToPDF", printBackground=False)
    assert len(made["data"]) > 10_000

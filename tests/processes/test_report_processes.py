"""scripts/report.py as a user starts it, and the page as a browser shows it."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from panoptic_dl.report.page import make_report
from tests.report.run_folders import make_run

from .browser import CHROMIUM, Browser

ROOT = Path(__file__).parents[2]
OVERFLOW = "document.documentElement.scrollWidth - window.innerWidth"
SHOWN = "[...document.querySelectorAll('.badge')].map(badge => badge.textContent)"
PRESSED = "document.querySelector('[aria-pressed=true]').dataset.show"


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
    code = "import sys, panoptic_dl.report.page;sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    long = "cityscapes_panoptic_xception65_conv,backbone.norm=GN,head.norm=GN,seed="
    for seed in range(2):
        make_run(folder / "runs" / f"{long}{seed}", seed=seed, pictures=["a", "b"])
    make_run(folder / "runs" / "toy", "toy_coco_panoptic_hrnet_tiny_conv", pictures=["c"])
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
    assert set(page.run(SHOWN)) == {"truth"} == {page.run(PRESSED)}
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
    assert set(page.run(SHOWN)) == {"truth"} == {page.run(PRESSED)}


def test_a_single_picture_switches_when_it_is_pressed(page):
    before = page.run("document.querySelector('.tile img').src")
    page.run("document.querySelector('.tile').focus(), 0")
    page.press("Enter")
    assert page.run(SHOWN)[:2] == ["truth", "prediction"]
    label = page.run("document.querySelector('.tile').getAttribute('aria-label')")
    assert label.endswith("truth of c")
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

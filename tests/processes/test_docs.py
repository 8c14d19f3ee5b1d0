"""The commands of README.md and the tutorials, run as a reader would; the site that is built."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from fnmatch import fnmatch
from urllib.parse import urlsplit

import pytest

from tests.docs_blocks import BlockError, blocks, checkout, run_page
from tests.processes.browser import CHROMIUM, Browser
from tests.runs import ROOT, run

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]


def found(page):
    """The blocks of a page; of one that is wrong none, which fails the test of that page."""
    try:
        return blocks(page)
    except BlockError:
        return []


SLOW = [page for page in PAGES if any(block.slow for block in found(page))]
SKIPPED = [block for page in PAGES for block in found(page) if block.skip]


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run as the quickstart's, of two iterations: outputs/toy_quickstart/TIME of the pages."""
    folder = tmp_path_factory.mktemp("outputs") / "toy_quickstart" / "2000-01-01_00-00-00"
    quick = ["train.iterations=2", "train.batch_size=2", "evaluation.picture_count=0"]
    data = ["dataset.root.num_train=4", "dataset.root.num_val=2"]
    done = run("experiment=toy_quickstart", *quick, *data, f"run_dir={folder}")
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def ids(page):
    return page.name


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_the_commands_of_a_page_work(page, trained, tmp_path):
    run_page(page, checkout(tmp_path / "checkout", [trained]))


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=ids)
def test_all_commands_of_a_page_work(page, trained, tmp_path):
    run_page(page, checkout(tmp_path / "checkout", [trained]), slow=True)


def test_every_file_of_a_run_folder_is_explained(trained):
    named = re.findall(r"`([\w./*]+)`", (ROOT / "docs" / "reference" / "run_folder.md").read_text())
    patterns = {re.sub(r"\d+", "*", name.rstrip("/")) for name in named}
    inside = [file for file in trained.glob(".hydra/*") if file.is_file()]
    files = [file.relative_to(trained).as_posix() for file in [*trained.glob("[!.]*"), *inside]]
    assert len(files) > 10
    assert [f for f in files if not any(fnmatch(re.sub(r"\d+", "*", f), p) for p in patterns)] == []


@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: f"{block.place} {block.skip}")
def test_commands_that_no_test_runs_say_why(block):
    pytest.skip(block.skip)


def build(project, site):
    """`mkdocs build`, which `make docs` calls after it has made the pages."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(site)],
        cwd=project,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = build(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_is_built_without_a_warning_and_can_be_searched(site):
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    places = [each["location"] for each in index if "train.early_stop" in each["text"]]
    assert "reference/settings.html#train" in places
    assert any(each["location"] == "reference/changelog.html" for each in index)


def test_pages_ask_for_nothing_from_elsewhere(site):
    for page in site.rglob("*.html"):
        asked = re.findall(
            r"<(?:script|link|img|iframe)[^>]* (?:src|href)=\"?([^\" >]+)", page.read_text()
        )
        assert [each for each in asked if urlsplit(each).netloc] == [], page


@pytest.mark.parametrize(
    "broken",
    [
        {
            "nowhere.md": "[a](nowhere.md)",
            "#nowhere": "[a](../start/install.md#nowhere)",
            "README.md": "[a](../../README.md)",
        },
        {"panoptic_dl.config.nowhere": "::: panoptic_dl.config.nowhere"},
    ],
    ids=["links", "API"],
)
def test_what_is_broken_fails_the_build(tmp_path, broken):
    for name in ("docs", "scripts", "panoptic_dl", "lazy_configs", "conf"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "docs").unlink()
    shutil.copytree(ROOT / "docs", tmp_path / "docs", ignore=shutil.ignore_patterns("*.png"))
    for file in ROOT.glob("*.*"):
        if file.suffix in (".md", ".yml"):
            shutil.copy(file, tmp_path)
    page = tmp_path / "docs" / "reference" / "exit_codes.md"
    page.write_text("\n\n".join([page.read_text(), *broken.values(), ""]))
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    said = re.findall("^(?:WARNING|ERROR).*", done.stderr, re.MULTILINE)
    for message in broken:
        assert any(message in line for line in said), done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_shows_and_searches_it_from_its_folder(site, tmp_path):
    browser = Browser(tmp_path / "profile")
    try:
        for page in ("index", "reference/settings", "reference/api", "tutorials/quickstart"):
            browser.resize(390, 800, mobile=True)
            browser.open(site / f"{page}.html")
            width = browser.run("document.documentElement.scrollWidth")
            assert width <= 390, f"{page} is wider than a phone: {width}"
            assert all(url.startswith("file:") for url in browser.requests()), page
            assert browser.complaints() == [], page
        browser.resize(1200, 800)
        browser.open(site / "index.html")
        found = "[...document.querySelectorAll('.md-search-result__link')].map(a => a.href)"
        until = time.monotonic() + 120
        while not any("settings.html" in link for link in browser.run(found)):
            assert time.monotonic() < until, "the search finds nothing"
            for text in ("early", "early_stop"):  # what the box holds already is no new query
                browser.run("document.querySelector('.md-search__input').select()")
                browser("Input.insertText", text=text)
                time.sleep(0.5)
        assert all(url.startswith("file:") for url in browser.requests())
        assert browser.complaints() == []
    finally:
        browser.close()

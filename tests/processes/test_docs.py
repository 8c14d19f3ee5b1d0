"""The commands of README.md and the tutorials, run as a reader would; the site that is built."""

import pytest

from tests.docs_blocks import BlockError, blocks, checkout, run_page
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


@pytest.mark.parametrize("block", SKIPPED, ids=lambda block: f"{block.place} {block.skip}")
def test_commands_that_no_test_runs_say_why(block):
    pytest.skip(block.skip)

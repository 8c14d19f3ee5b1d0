"""The notebooks of docs/tutorials: executed from the first cell to the last; what is committed."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from tests.docs_blocks import checkout
from tests.runs import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
FEW = "train.iterations=2 train.batch_size=2 train.num_workers=0 dataset.root.num_train=4"


def execute(notebook, tmp_path, monkeypatch):
    folder = checkout(tmp_path / "checkout")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    place = {"metadata": {"path": str(folder / "docs")}}
    (folder / "docs").mkdir()  # a notebook finds the checkout above its folder
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=place).execute()


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_with_few_iterations(file, tmp_path, monkeypatch):
    notebook = nbformat.read(file, 4)
    committed, cut = pictures(notebook), 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = []
            cell.source, times = re.subn(
                r"train\.iterations={ITERATIONS}( train\.batch_size=4)?", FEW, cell.source
            )
            cell.source = cell.source.replace("num_val=12", "num_val=2").replace(
                "experiment=toy_quickstart", "experiment=toy_quickstart dataset.root.num_val=2"
            )
            cut += times
    assert cut == 1
    execute(notebook, tmp_path, monkeypatch)
    assert pictures(notebook) == committed > 1


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs_as_it_is(file, tmp_path, monkeypatch):
    execute(nbformat.read(file, 4), tmp_path, monkeypatch)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_what_is_committed_has_small_outputs_and_nothing_of_a_machine(file):
    text = file.read_text(encoding="utf-8")
    assert len(text) < 400_000
    assert not re.search(r"/(tmp|home|root|Users)/", text)
    notebook = nbformat.read(file, 4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not any(output.output_type == "error" for cell in code for output in cell.outputs)
    assert "image/png" not in text


def test_the_page_of_notebooks_names_them_all():
    page = (ROOT / "docs" / "tutorials" / "notebooks.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\]\((\w+\.ipynb)\)", page)) == [file.name for file in NOTEBOOKS]

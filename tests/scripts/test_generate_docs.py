"""The parts of the documentation that are made from the code, and the schema for editors."""

import json
import re

import jsonschema
import pytest
import yaml

from panoptic_dl.config import compose
from panoptic_dl.core import run_folder
from panoptic_dl.core.settings import GROUPS, defaults
from panoptic_dl.evaluation.metrics import EVALUATORS, METRICS
from scripts import generate_docs
from scripts.generate_docs import (
    CONF,
    LAZY,
    OPTION_GROUPS,
    first_sentence,
    pages,
    with_links,
    with_parts,
    yaml_keys,
)
from tests.runs import ROOT

REFERENCE = ROOT / "docs" / "reference"
GLOBAL = [file for file in CONF.rglob("*.yaml") if file.read_text().startswith("# @package _glo")]


def test_what_is_made_is_up_to_date():
    for file, text in pages().items():
        assert file.read_text() == text, f"{file}: `make docs` makes it anew"


def rows(page, heading):
    """The first cells of the table below a heading."""
    _, _, below = (REFERENCE / page).read_text().partition(f"\n## {heading}\n")
    return re.findall(r"^\| `(.+?)` +\|", below.partition("\n## ")[0], re.MULTILINE)


def test_every_option_of_every_group_has_a_sentence():
    folders = {f.relative_to(CONF).as_posix() for f in CONF.rglob("*") if f.is_dir()}
    folders |= {f.name for f in LAZY.iterdir() if f.is_dir() and f.name[0] != "_"}
    assert folders - {"hydra", "hydra/help"} == set(OPTION_GROUPS)
    for group in OPTION_GROUPS:
        names = {f.stem for f in (CONF / group).glob("*.yaml")}
        names |= {f.stem for f in (LAZY / group).glob("[!_]*.py")}
        assert set(rows("groups.md", group)) == names
    text = (REFERENCE / "groups.md").read_text()
    assert re.findall(r"^\| `.+` \|  \|$", text, re.MULTILINE) == []


def test_every_key_has_a_meaning():
    text = (REFERENCE / "settings.md").read_text()
    for group in GROUPS:
        assert rows("settings.md", group) == [f"{group}.{name}" for name in defaults(group)]
    keys = [f"dataset.{key}" for key in compose(["dataset=cityscapes"]).dataset]
    found = {key.rpartition(".")[0] or key for key in rows("settings.md", "dataset")}
    built = {"classes", "train", "test", "evaluators"}
    missing = set(keys) - set(rows("settings.md", "dataset")) - found
    assert missing == {f"dataset.{key}" for key in built}
    assert re.findall(r"^\| `.+\|  \|$", text, re.MULTILINE) == []


def test_every_metric_and_evaluator_is_explained():
    text = (REFERENCE / "metrics.md").read_text()
    explained = {
        n for line in re.findall(r"^(\w.*)\n:   ", text, re.MULTILINE) for n in line.split(", ")
    }
    assert explained == {metric.name for metric in METRICS}
    for metric in METRICS:
        assert f"| `{metric.name}` | " in text
    for evaluator in EVALUATORS:
        assert f"| `{evaluator.target}` | " in text


def test_every_exit_code_and_file_of_a_run_folder_is_named():
    codes = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit_codes.md").read_text(), re.MULTILINE)
    assert list(map(int, codes)) == [0, *run_folder.ExitCode]
    text = (REFERENCE / "run_folder.md").read_text()
    for name, value in vars(run_folder).items():
        if name.isupper() and isinstance(value, str) and re.search(r"\w\.\w+$|^last_", value):
            assert f"`{value}`" in text, f"{name}, {value}"


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("a: 1 # one\nb: # both\n  c: [2] # two\n", [("a", "1", "one"), ("b.c", "[2]", "two")]),
        (
            "# before,\n# in two lines\na: x\nb: y\n",
            [("a", "x", "before, in two lines"), ("b", "y", "")],
        ),
        ("defaults:\n  - a: 1 # no\n_target_: x # no\nb: 2 # yes\n", [("b", "2", "yes")]),
        ("a: {}\nhydra:\n  b: 1 # no\n", [("a", "{}", "")]),
    ],
)
def test_keys_of_yaml_files(text, keys):
    assert yaml_keys(text) == keys


def test_a_file_says_what_it_is_in_its_first_lines(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("# @package _global_\n# One sentence\n# in two lines.\n# Another.\na: 1\n")
    assert first_sentence(file) == "One sentence in two lines."
    file = tmp_path / "a.py"
    file.write_text('"""One sentence\nin two lines.\n\nAnother."""\n')
    assert first_sentence(file) == "One sentence in two lines."


def test_parts_of_a_page_are_made_anew_and_all_else_stays(monkeypatch):
    monkeypatch.setitem(generate_docs.MADE, "metrics", lambda: "| new |\n")
    old = "a\n\n<!-- metrics -->\n| old |\n<!-- /metrics -->\n\nb\n\n<!-- other -->\nc\n"
    new = "a\n\n<!-- metrics -->\n\n| new |\n\n<!-- /metrics -->\n\nb\n\n<!-- other -->\nc\n"
    assert with_parts(old) == new
    assert with_parts(new) == new
    assert with_parts(old.replace("| old |\n", "")) == new


def test_links_of_files_in_the_root_go_to_pages():
    text = "[docs/how-to/data.md](docs/how-to/data.md#a) [a](README.md), [x](SECURITY.md)"
    assert with_links(text, "reference/changelog.md") == (
        "[how-to/data.md](../how-to/data.md#a) [a](../index.md), [x](../reference/security.md)"
    )
    assert with_links("[f](scripts/f.py), [`g`](g.py)", "reference/a.md") == "`f`, `g`"
    assert with_links("[y](#z)", "a.md") == "[y](#z)"
    assert with_links("[w](https://example.org/a.md)", "a.md") == "[w](https://example.org/a.md)"


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((REFERENCE / "settings.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator(schema)


@pytest.mark.parametrize("file", GLOBAL, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_the_schema_takes_the_files_that_there_are(validator, file):
    content = yaml.safe_load(file.read_text()) or {}
    assert [f"{e.json_path}: {e.message}" for e in validator.iter_errors(content)] == []


@pytest.mark.parametrize(
    "text",
    [
        "train: {iterations: 90, epochs: null, ema: 0.999, compile: max-autotune}",
        "train: {batch_size: '${recipe_record.batch_size}', early_stop: {metric: PQ, patience: 5}}",
        "evaluation: {save: [panoptic, instances], scales: [0.5, 1], flip: true}",
        "evaluation: {save: null}",
        "resume: auto\nseed: null\ninput: [a.jpg, 0]\nrun_dir: outputs/mine",
        "dataset: {crop_size: [512, 512], augmentation: reference, my_own_key: 3}",
        "backbone: {width: 64, my_own_key: 3}\noptimizer: {lr: 5.0e-4}",
        "published: {PQ: 63.3}\nclass_weights: {rider: 3}",
    ],
)
def test_the_schema_takes_what_a_run_takes(validator, text):
    assert [
        f"{e.json_path}: {e.message}" for e in validator.iter_errors(yaml.safe_load(text))
    ] == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("train: {iteration: 90}", "$.train"),
        ("trian: {iterations: 90}", "$"),
        ("train: {iterations: 0}", "$.train.iterations"),
        ("train: {iterations: many}", "$.train.iterations"),
        ("train: {iterations: 1.5}", "$.train.iterations"),
        ("train: {ema: 1}", "$.train.ema"),
        ("train: {precision: fp8}", "$.train.precision"),
        ("evaluation: {flip: 1}", "$.evaluation.flip"),
        ("evaluation: {save: [masks]}", "$.evaluation.save"),
        ("evaluation: {scales: 1.0}", "$.evaluation.scales"),
        ("evaluation: {scales: [-1]}", "$.evaluation.scales"),
        ("resume: maybe", "$.resume"),
        ("dataset: {augmentation: none}", "$.dataset.augmentation"),
        ("dataset: {crop_size: wide}", None),
        ("published: {PQQ: 3}", "$.published"),
    ],
)
def test_the_schema_refuses_what_a_run_refuses(validator, text, path):
    found = [error.json_path for error in validator.iter_errors(yaml.safe_load(text))]
    assert found == ([path] if path else [])


def test_editors_are_told_of_the_schema():
    settings = json.loads((ROOT / ".vscode" / "settings.json").read_text())
    ((schema, patterns),) = settings["yaml.schemas"].items()
    assert (ROOT / schema).is_file()
    bound = {file for pattern in patterns for file in ROOT.glob(pattern)}
    assert bound == {*GLOBAL} - {
        f for f in GLOBAL if f.parent.name not in ("experiment", "recipe", "sweep", "hardware")
    }

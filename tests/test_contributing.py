"""CI, templates, hooks, citation, changelog: they parse, and name what exists."""

import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
FORMS = ("bug_report", "feature_request")
YAML_FILES = (
    *(f".github/ISSUE_TEMPLATE/{name}.yml" for name in (*FORMS, "config")),
    *(".github/workflows/ci.yml", ".pre-commit-config.yaml", "CITATION.cff"),
)
NAME_TARGETS = (
    *YAML_FILES,
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "compose.yaml"),
    ".github/PULL_REQUEST_TEMPLATE.md",
    *(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
)
TARGETS = re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def targets(text):
    """Targets of make that a text names: in code, or as a line of it."""
    return re.findall(r"(?:`|^\s*(?:- )?(?:\w+: )?)make ([a-z-]+)", text, re.MULTILINE)


@pytest.mark.parametrize("name", YAML_FILES)
def test_yaml_files_parse(name):
    assert isinstance(yaml.safe_load(read(name)), dict)


@pytest.mark.parametrize("name", NAME_TARGETS)
def test_targets_of_make_that_are_named_exist(name):
    unknown = set(targets(read(name))) - {*TARGETS}
    assert not unknown


def test_targets_are_found_where_they_are_named():
    assert {"setup", "check", "test", "docs"} <= {*targets(read(".github/workflows/ci.yml"))}
    assert {"test-quick", "check", "docs", "format"} <= {*targets(read("CONTRIBUTING.md"))}
    assert "check" in targets(read(".pre-commit-config.yaml"))
    assert targets("make sure, see `make nothing ARGS=1`") == ["sure", "nothing"]


def test_ci_runs_the_same_commands_as_people_on_the_first_and_the_last_python():
    jobs = yaml.safe_load(read(".github/workflows/ci.yml"))["jobs"]
    commands = {name: [step.get("run") for step in job["steps"]] for name, job in jobs.items()}
    for lines in commands.values():
        assert all(line.startswith("make ") for line in filter(None, lines))
    assert set(re.findall(r"make \S+", read(".ci/run"))) <= {*commands["test"]}
    assert "make docs" in commands["docs"]
    matrix = jobs["test"]["strategy"]["matrix"]
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}
    oldest = re.search(r'requires-python = ">=(.*)"', read("pyproject.toml"))[1]
    assert oldest in matrix["python"]


@pytest.mark.parametrize("name", FORMS)
def test_forms_are_what_github_takes(name):
    form = yaml.safe_load(read(f".github/ISSUE_TEMPLATE/{name}.yml"))
    assert {"name", "description", "body"} <= form.keys()
    assert form.keys() <= {"name", "description", "body", "labels", "title", "assignees"}
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    identities = [part["id"] for part in asked]
    assert len({*identities}) == len(identities)
    for part in form["body"]:
        assert part["type"] in ("markdown", "textarea", "input", "dropdown", "checkboxes")
        assert part["attributes"]["value" if part["type"] == "markdown" else "label"]
        assert part.keys() <= {"type", "id", "attributes", "validations"}
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_a_bug_report_asks_for_the_environment():
    body = yaml.safe_load(read(".github/ISSUE_TEMPLATE/bug_report.yml"))["body"]
    (part,) = (part for part in body if part.get("id") == "environment")
    assert "`make environment`" in part["attributes"]["description"]
    assert part["validations"]["required"]


def test_hooks_are_local_and_their_programs_are_installed():
    config = yaml.safe_load(read(".pre-commit-config.yaml"))
    assert [repository["repo"] for repository in config["repos"]] == ["local"]
    for hook in config["repos"][0]["hooks"]:
        assert hook["language"] == "system"
        program, *words = hook["entry"].split()
        if program == "make":
            assert {*words} <= {*TARGETS}
        else:
            assert program.startswith(".venv/bin/")
            assert (Path(sys.prefix, "bin") / Path(program).name).is_file()


def test_the_citation_has_what_the_format_requires():
    """Keys and kinds of version 1.2.0 of the Citation File Format, of those that stand there."""
    citation = yaml.safe_load(read("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    project = read("pyproject.toml")
    assert citation["title"] == re.search(r'^name = "(.*)"', project, re.MULTILINE)[1]
    assert citation["license"] == re.search(r'^license = "(.*)"', project, re.MULTILINE)[1]
    assert all(isinstance(word, str) for word in citation["keywords"])
    for author in citation["authors"]:
        assert author.keys() <= {"name", "given-names", "family-names", "orcid", "website"}
    known = {"type", "title", "authors", "collection-title", "conference", "year", "start", "end"}
    for work in citation["references"]:
        assert {"type", "title", "authors"} <= work.keys() <= known | {"doi", "url"}
        assert isinstance(work["year"], int)
        assert work["conference"]["name"]
        assert re.fullmatch(r"10\.\d{4,9}(\.\d+)?/[A-Za-z0-9:/_;\-.()\[\]\\]+", work["doi"])
        assert all({"given-names", "family-names"} == person.keys() for person in work["authors"])


def test_the_changelog_has_the_form_that_it_names():
    text = read("CHANGELOG.md")
    headings = re.findall(r"^(##+) (.*)$", text, re.MULTILINE)
    assert headings[0] == ("##", "[Unreleased]")
    for level, heading in headings[1:]:
        if level == "##":
            assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", heading)
        else:
            kinds = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
            assert heading in kinds

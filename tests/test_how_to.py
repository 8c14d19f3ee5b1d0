"""Commands of the how-to and explanation pages name keys, options, scripts and flags that exist."""

import re
import shlex
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from panoptic_dl.config import compose

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/how-to/*.md"), *ROOT.glob("docs/explanation/*.md")])
OWN_OPTIONS = ("formats",)  # pages whose commands need files that they write: test_custom_dataset


def commands(text):
    """The words of each command in the bash blocks of a page, without variables and comments."""
    for block in re.findall(r"^```bash\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.match(r"[A-Z_0-9]+=", words[0]):
                del words[0]
            if words:
                yield words


def first_row(words):
    """The overrides of the first run of a sweep."""
    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override():
            value = next(iter(override.sweep_string_iterator()))
            yield f"{override.get_key_element()}={value}"
        else:
            yield override.input_line


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.stem not in OWN_OPTIONS], ids=lambda page: page.stem
)
def test_commands_exist(page):
    for words in commands(page.read_text()):
        if words[:2] == ["python", "run.py"]:
            rest = [word for word in words[2:] if not word.startswith("-")]
            compose(list(first_row(rest)))
        elif words[0] == "python" and words[1].startswith("scripts/"):
            code = (ROOT / words[1]).read_text() + (ROOT / "scripts/preparation.py").read_text()
            for flag in re.findall(r"--[a-z-]+", " ".join(words[2:])):
                assert f'"{flag}"' in code, (words[1], flag)


def test_what_it_reads():
    page = "```bash\n# a comment\nA=b python run.py mode=eval \\\n  'x=[1, 2]'  # why\n```\n"
    assert list(commands(page)) == [["python", "run.py", "mode=eval", "x=[1, 2]"]]
    assert list(first_row(["head=conv,dsconv", "seed=1"])) == ["head=conv", "seed=1"]

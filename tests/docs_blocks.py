"""Run the commands of a page of the documentation, as a reader would, in a folder of their own.

A block whose language is `bash` or `python` is run, in the order of the page: bash by `bash -e`,
Python as a program of its own. Listings, output, and what nobody could run are `text`. An HTML
comment on the line before a block tells how it is run; several may follow each other:

    <!-- test: slow -->                     only by `make test-slow`; else its options are composed
    <!-- test: skip WHY -->                 never run, only composed: it needs Cityscapes, a GPU
    <!-- test: skip-file WHY -->            not even composed: it names a file that is not there
    <!-- test: append train.iterations=2 -->   overrides after each `python run.py` of the block
    <!-- test: file NAME -->                the block, of any language, is written to this file

In all blocks `outputs/NAME/TIME` is the newest run below outputs/NAME: one with a checkpoint, or
with the file that is named in it. The folder `PHOTOS` and the file `photo.jpg` exist.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

from tests.runs import ENVIRONMENT, ROOT

RUN = ("bash", "python")
SHOWN = ("text", "yaml", "json", "toml", "dockerfile", "html", "latex", "bibtex")
DIRECTIVES = ("slow", "skip", "skip-file", "append", "file")
_DIRECTIVE = re.compile(r"\s*<!-- test: (\S+) ?(.*?) ?-->\s*")
_FENCE = re.compile(r"(\s*)(`{3,}|~{3,}) *([\w-]*)")
# What stands in quotes, a line that goes on, and all else up to a comment or another command.
_COMMAND = re.compile(r"\bpython run\.py((?:'[^']*'|\"[^\"]*\"|\\\n|[^\n#|&;<>'\"\\]|(?<! )#)*)")
_TIME = re.compile(r"(outputs/[\w./-]+?)/TIME\b((?:/[\w.-]+)?)")
_COMPOSE = """
import json, sys
from hydra.core.override_parser.overrides_parser import OverridesParser
from panoptic_dl.config import compose
parser = OverridesParser.create()
for place, words in json.load(sys.stdin):
    overrides = []
    for word in words:
        each = parser.parse_override(word)
        if each.key_or_group.startswith("hydra"):
            continue
        values = each.sweep_string_iterator() if each.is_sweep_override() else None
        key = each.get_key_element() if values else ""
        overrides.append(f"{key}={next(values)}" if values else word)
    try:
        compose(overrides)
    except Exception as error:
        sys.exit(f"{place}: python run.py {' '.join(words)}\\n{error}")
"""


@dataclass(frozen=True)
class Block:
    """A block that is run, or written to a file."""

    page: Path
    line: int  # of its fence, from 1
    language: str
    text: str
    slow: bool = False
    skip: str = ""  # why it is not run
    composed: bool = True  # whether the options of what is not run are
    append: str = ""
    file: str = ""

    @property
    def place(self) -> str:
        return f"{self.page.name}:{self.line}"


class BlockError(AssertionError):
    """A block that cannot be understood, or that failed."""


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that are run or written, in order.

    BlockError: a block without a language that says whether it is run, or a directive that is
    unknown or stands before no block.
    """
    lines, found, directives = page.read_text(encoding="utf-8").splitlines(), [], {}
    i = 0
    while i < len(lines):
        where = f"{page.name}:{i + 1}"
        if directive := _DIRECTIVE.fullmatch(lines[i]):
            if directive[1] not in DIRECTIVES:
                raise BlockError(f"{where}: test: {directive[1]} is none of {DIRECTIVES}")
            if directive[1] != "slow" and not directive[2]:
                raise BlockError(f"{where}: test: {directive[1]} lacks its words")
            directives[directive[1]] = directive[2]
        elif fence := _FENCE.match(lines[i]):
            indent, ticks, language = fence.groups()
            if language not in (*RUN, *SHOWN):
                raise BlockError(
                    f"{where}: a block is {', '.join(RUN)} if it is run, or else "
                    f"{', '.join(SHOWN)}, not {language!r}"
                )
            end = next(
                (j for j in range(i + 1, len(lines)) if lines[j].strip() == ticks), len(lines)
            )
            text = "\n".join(line.removeprefix(indent) for line in lines[i + 1 : end]) + "\n"
            if language in RUN or "file" in directives:
                why = directives.get("skip", "") or directives.get("skip-file", "")
                found.append(
                    Block(
                        page=page,
                        line=i + 1,
                        language=language,
                        text=text,
                        slow="slow" in directives,
                        skip=why,
                        composed="skip-file" not in directives,
                        append=directives.get("append", ""),
                        file=directives.get("file", ""),
                    )
                )
            elif directives:
                raise BlockError(
                    f"{where}: a block of {language} is not run, so nothing directs it"
                )
            i, directives = end, {}
        elif directives:
            raise BlockError(f"{where}: the line after a directive begins no block")
        i += 1
    return found


def checkout(folder: Path, runs: Iterable[Path] = ()) -> Path:
    """Make a folder look like a checkout after `make setup`, with photographs and trained runs.

    Args:
        folder: is made.
        runs: are copied to outputs/NAME/TIME.
    """
    folder.mkdir(parents=True)
    for name in ("panoptic_dl", "conf", "lazy_configs", "scripts", "run.py", "Makefile"):
        source = ROOT / name
        place = shutil.copytree if source.is_dir() else shutil.copy2
        place(source, folder / name)
    (folder / "tests").symlink_to(ROOT / "tests")
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / "PHOTOS").mkdir()
    for number in range(2):
        picture = Image.new("RGB", (256, 128), (150, 180, 220))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((0, 70, 256, 128), (90, 90, 95))
        draw.rectangle((40 + 80 * number, 50, 90 + 80 * number, 90), (180, 40, 40))
        picture.save(folder / "PHOTOS" / f"photo_{number}.jpg")
    picture.save(folder / "photo.jpg")
    for run in runs:
        shutil.copytree(run, folder / "outputs" / run.parent.name / run.name)
    return folder


def run_page(
    page: Path, folder: Path, replacements: Mapping[str, str] | None = None, *, slow: bool = False
) -> None:
    """Run the blocks of a page in a folder of `checkout`; compose the options of the others.

    Args:
        replacements: other texts of the page, such as a placeholder, and what stands for them.
        slow: whether slow blocks are run too.

    Raises:
        BlockError: a block failed; it has the block, and the end of what it printed.
    """
    left_out = []
    for block in blocks(page):
        text = block.text
        for old, new in (replacements or {}).items():
            text = text.replace(old, new)
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(text, encoding="utf-8")
        elif block.skip or (block.slow and not slow):
            if block.composed:
                left_out.append((block, text))
        else:
            _run(block, _with_overrides(_with_times(text, folder), block.append), folder)
    _compose(left_out, folder)


def _run(block: Block, text: str, folder: Path) -> None:
    program = ["bash", "-e", "-o", "pipefail", "-c", text]
    if block.language == "python":
        program = [sys.executable, "-c", text]
    limit = 3600 if block.slow else 300
    with (folder.parent / f"{folder.name}.log").open("w+") as output:
        process = subprocess.Popen(
            program,
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit)
            ended = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"no end after {limit} s"
        finally:  # and what runs in its background
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        if ended:
            raise BlockError(f"{block.place}: {ended} of\n{text}\n{output.read()[-4000:]}")


def _environment(folder: Path) -> dict[str, str]:
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(folder),  # as the editable installation of a checkout
        "PYTHON": "true",  # so that `make setup`, of this other folder, installs nothing
    }
    return ENVIRONMENT | environment


def _with_times(text: str, folder: Path) -> str:
    def newest(match: re.Match) -> str:
        wanted = match[2].lstrip("/") or "last_checkpoint"
        runs = sorted(file.parent.name for file in (folder / match[1]).glob(f"*/{wanted}"))
        return f"{match[1]}/{runs[-1]}{match[2]}" if runs else match[0]

    return _TIME.sub(newest, text)


def _with_overrides(text: str, overrides: str) -> str:
    return _COMMAND.sub(lambda m: f"{m[0].rstrip()} {overrides} ", text) if overrides else text


def _compose(left_out: list[tuple[Block, str]], folder: Path) -> None:
    commands = []
    for block, text in left_out:
        for match in _COMMAND.finditer(_with_times(text, folder)):
            command = match[1].replace("\\\n", " ")  # which shlex keeps
            words = [word for word in shlex.split(command) if word not in ("-m", "--multirun")]
            if not any(word.startswith("-") for word in words):  # --help and other doors of Hydra
                commands.append((block.place, words))
    if commands:
        done = subprocess.run(
            [sys.executable, "-c", _COMPOSE],
            cwd=folder,
            env=_environment(folder),
            input=json.dumps(commands),
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise BlockError(done.stderr[-4000:])

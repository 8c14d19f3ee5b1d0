"""The harness that runs the documentation's commands, on pages of its own."""

import time
from pathlib import Path

import pytest

from tests import docs_blocks
from tests.docs_blocks import BlockError, blocks, checkout, run_page

PAGE = """\
# A page

```bash
mkdir made
```

A list:

1. as in a list

   <!-- test: file made/lines.py -->
   ```python
   def lines():
       return 3
   ```

<!-- test: append train.iterations=2 seed=1 -->
<!-- test: slow -->
```bash
python run.py mode=demo 'weights=a # b' \\
  input=PHOTOS   # pictures
echo done
```

```python title="count.py"
import sys; sys.path.insert(0, "made")
from lines import lines
open("made/count.txt", "w").write(str(lines()))
```

```text
python run.py is no command here
```

<!-- test: skip needs Cityscapes -->
```bash
python run.py experiment=NAME
```
"""


def write(folder, text):
    page = folder / "page.md"
    page.write_text(text)
    return page


def folder_of(tmp_path):
    """A folder that is no checkout, which is enough where nothing of ours is run."""
    (tmp_path / "checkout").mkdir()
    return tmp_path / "checkout"


def test_blocks_are_found_with_what_directs_them(tmp_path):
    found = blocks(write(tmp_path, PAGE))
    assert [(b.line, b.language, b.slow, b.skip, b.file) for b in found] == [
        (3, "bash", False, "", ""),
        (12, "python", False, "", "made/lines.py"),
        (19, "bash", True, "", ""),
        (25, "python", False, "", ""),
        (36, "bash", False, "needs Cityscapes", ""),
    ]
    assert found[1].text == "def lines():\n    return 3\n"
    assert found[2].append == "train.iterations=2 seed=1"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```\nls\n```\n", "page.md:1: a block is bash, python"),
        ("```console\n$ ls\n```\n", "not 'console'"),
        ("<!-- test: slwo -->\n```bash\nls\n```\n", "slwo is none of"),
        ("<!-- test: skip -->\n```bash\nls\n```\n", "skip lacks its words"),
        ("<!-- test: slow -->\n\n```bash\nls\n```\n", "page.md:2: the line after a directive"),
        ("<!-- test: slow -->\n```text\nls\n```\n", "page.md:2: a block of text is not run"),
    ],
)
def test_a_page_that_would_not_be_tested_is_refused(tmp_path, text, message):
    with pytest.raises(BlockError, match=message):
        blocks(write(tmp_path, text))


def test_blocks_are_run_in_order_and_files_written(tmp_path, monkeypatch):
    composed = []
    monkeypatch.setattr(docs_blocks, "_compose", lambda left, folder: composed.extend(left))
    folder = folder_of(tmp_path)
    run_page(write(tmp_path, PAGE), folder, {"NAME": "toy_quickstart"})
    assert (folder / "made" / "count.txt").read_text() == "3"
    assert [block.line for block, _ in composed] == [19, 36]  # the slow one, and the skipped one
    assert composed[1][1] == "python run.py experiment=toy_quickstart\n"


@pytest.mark.parametrize(
    "command", ["false\necho on", "false | cat", "python -c 'raise SystemExit(3)'"]
)
def test_a_command_that_fails_fails_the_page(tmp_path, command):
    page = write(tmp_path, f"```bash\necho begun\n{command}\n```\n")
    with pytest.raises(BlockError, match=r"page\.md:1: exit code [13] of\n[\s\S]*begun\n"):
        run_page(page, folder_of(tmp_path))


def test_nothing_is_left_running(tmp_path):
    page = write(tmp_path, "```bash\nsleep 100 &\necho $! > pid\n```\n")
    folder = folder_of(tmp_path)
    run_page(page, folder)
    number = (folder / "pid").read_text().strip()
    until = time.monotonic() + 10
    while Path(f"/proc/{number}/cmdline").exists() and Path(f"/proc/{number}/cmdline").read_text():
        assert time.monotonic() < until, "sleep is still there"
        time.sleep(0.05)


def test_overrides_come_before_comments_and_other_commands(tmp_path):
    text = blocks(write(tmp_path, PAGE))[2].text
    assert docs_blocks._with_overrides(text, "a=1") == (
        "python run.py mode=demo 'weights=a # b' \\\n  input=PHOTOS a=1 # pictures\necho done\n"
    )
    line = "X=1 python run.py a=b#c && python run.py > log\n"
    added = "X=1 python run.py a=b#c d=1 && python run.py d=1 > log\n"
    assert docs_blocks._with_overrides(line, "d=1") == added


def test_time_is_the_newest_run_that_has_what_is_asked_for(tmp_path):
    for name, file in {"1": "last_checkpoint", "2": "last_checkpoint", "3": "model.onnx"}.items():
        (tmp_path / "outputs" / "toy" / name).mkdir(parents=True)
        (tmp_path / "outputs" / "toy" / name / file).touch()
    text = "a=outputs/toy/TIME b=outputs/toy/TIME/model.onnx c=outputs/none/TIME outputs/toy/TIMES"
    assert docs_blocks._with_times(text, tmp_path) == (
        "a=outputs/toy/2 b=outputs/toy/3/model.onnx c=outputs/none/TIME outputs/toy/TIMES"
    )


@pytest.mark.thorough
def test_what_is_not_run_is_composed(tmp_path):
    good = "python run.py -m backbone=xception65,hrnet48 hydra/launcher=joblib dataset.root=/none\n"
    skip = "<!-- test: skip needs COCO -->\n```bash\n{}```\n"
    folder = checkout(tmp_path / "checkout")
    run_page(write(tmp_path, skip.format(good + "python run.py --help\n")), folder)
    with pytest.raises(BlockError, match=r"page\.md:2: python run\.py backbone=hrnet47"):
        run_page(write(tmp_path, skip.format("python run.py backbone=hrnet47\n")), folder)
    unread = (
        "<!-- test: skip-file names a run -->\n```bash\npython run.py weights=NONE mode=eval\n```\n"
    )
    run_page(write(tmp_path, unread), folder)

"""What docs/demo.md says can be done is done here, with its own text."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from .conftest import scene

GUIDE = (Path(__file__).parents[2] / "docs" / "demo.md").read_text()


def test_the_lines_of_python_run(panoptic_run, tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    run = tmp_path / "outputs" / "toy_quickstart"
    run.mkdir(parents=True)
    (run / "TIME").symlink_to(panoptic_run.folder)
    Image.fromarray(scene(64, 128)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "docs/demo.md", "exec"), names)
    assert "(64, 128)" in capsys.readouterr().out
    assert names["picture"].dtype == np.uint8
    one, two = names["results"]
    assert np.array_equal(one.panoptic, two.panoptic)

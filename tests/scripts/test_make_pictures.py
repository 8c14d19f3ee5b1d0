"""The documentation's pictures: each is shown by a page, small, and made by the script or kept."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scripts import make_pictures as script

ROOT = Path(__file__).parents[2]
NAMES = sorted(file.stem for file in script.PICTURES.iterdir())


def test_every_picture_is_shown_and_every_shown_one_is_there():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    assert sorted(set(re.findall(r"\]\((?:\S*/)?pictures/(\w+)\.png\)", text))) == NAMES


def test_every_picture_can_be_made_again_or_is_kept_for_a_reason():
    made = {name for of_maker in script.MAKERS.values() for name in of_maker}
    assert sorted(made | set(script.KEPT)) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_small_enough_to_be_loaded_with_a_page(name):
    file = script.PICTURES / f"{name}.png"
    assert file.stat().st_size <= 600_000
    with Image.open(file) as picture:
        assert picture.width <= 2048


def test_pictures_are_shrunk_and_large_files_have_256_colors(tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PICTURES", tmp_path / "pictures")
    monkeypatch.setattr(script, "LARGE", 20_000)
    noise = np.random.default_rng(0).integers(0, 255, (50, 200, 3), np.uint8)
    script.save(noise, "a", 100)
    script.save(noise, "b", 300)
    with Image.open(tmp_path / "pictures/a.png") as a, Image.open(tmp_path / "pictures/b.png") as b:
        assert (a.size, b.size) == ((100, 25), (200, 50))
        assert (a.mode, b.mode) == ("RGB", "P")


def test_named_pictures_are_made_and_others_are_not(monkeypatch, capsys):
    called = []
    makers = {lambda: called.append(1): ("hero",), lambda: called.append(2): ("search", "browse")}
    monkeypatch.setattr(script, "MAKERS", makers)
    script.main([])
    assert called == [1, 2]
    called.clear()
    script.main(["search"])
    assert called == [2]
    with pytest.raises(SystemExit):
        script.main(["heroes"])
    assert "heroes: choose of hero, search, browse" in capsys.readouterr().err

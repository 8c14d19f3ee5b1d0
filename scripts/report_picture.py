"""Draw docs/pictures/report.png: `python scripts/report_picture.py RUN RUN...`.

It shows the report of these runs in a browser, in light and dark colors and on a phone.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from report import make_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the browser that the tests drive

from tests.processes.browser import Browser  # noqa: E402

HEIGHT, GAP = 1000, 12
VIEWS = (  # colors, width, and the section at the top
    ("light", 820, "content"),
    ("dark", 780, "classes"),
    ("light", 390, "gallery"),
)


def report_picture(runs: Sequence[Path]) -> Image.Image:
    """The views of the report of these run folders, side by side."""
    with TemporaryDirectory() as folder:
        make_report(runs, Path(folder))
        browser = Browser(Path(folder, "profile"))
        shots = []
        for index, (scheme, width, section) in enumerate(VIEWS):
            browser.prefer(scheme)
            browser.resize(width, HEIGHT, mobile=width < 500)
            browser("Emulation.setTouchEmulationEnabled", enabled=width < 500)
            browser.open(Path(folder, "report.html"))
            if section != "content":
                place = f"document.getElementById('{section}')"
                browser.run(f"{place}.scrollIntoView({{behavior: 'instant'}}), 0")
            with Image.open(browser.picture(Path(folder, f"{index}.png"))) as shot:
                shots.append(shot.convert("RGB"))
        browser.close()
    width = sum(shot.width for shot in shots) + GAP * (len(shots) - 1)
    sheet = Image.new("RGB", (width, HEIGHT), "#808080")
    left = 0
    for shot in shots:
        sheet.paste(shot, (left, 0))
        left += shot.width + GAP
    return sheet


if __name__ == "__main__":
    picture = report_picture([Path(run) for run in sys.argv[1:]])
    picture.quantize(256).save(ROOT / "docs" / "pictures" / "report.png", optimize=True)

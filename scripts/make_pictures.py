"""Make the pictures of docs/pictures: `python scripts/make_pictures.py [NAME ...]`.

All of them are of small networks trained on drawn images. Their runs lie in outputs/pictures; those
that are finished are not run again. The picture of the README is of the quickstart's network,
trained for 1,200 iterations instead of 350 (PQ 83.8 instead of 67.2), on a drawn street of the
validation split: an image that it has not seen in training.

The pictures in KEPT stay as they are unless they are named or made by hand.
"""

import argparse
import re
import shutil
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for the browser that the tests drive, and drawn exports

from panoptic_dl import Predictor  # noqa: E402
from panoptic_dl.datasets.toy.cityscapes import toy_cityscapes  # noqa: E402
from panoptic_dl.visualize.segmentation import SegmentDrawer  # noqa: E402
from panoptic_dl.visualize.sheets import LINE  # noqa: E402

RUNS, PICTURES = ROOT / "outputs" / "pictures", ROOT / "docs" / "pictures"
SHOWN, SIZE = 24, (512, 1024)  # drawn streets of the validation split, H and W of each
HERO, VIEWS, SERVED = 9, 18, 3  # the streets that are shown
LARGE = 400_000  # bytes of a file
BROWSED = 6  # the training sample of mode=browse


def execute(*arguments: Any) -> None:
    """Run a Python file or module of the project; what it prints is seen."""
    subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, check=True)


def run(name: str, *overrides: str) -> Path:
    """The folder of a finished run, which is made where it is missing."""
    folder = RUNS / name
    if not (folder / "results.json").is_file():
        execute("run.py", *overrides, f"run_dir={folder}")
    return folder


def again(name: str, *overrides: str) -> Path:
    """The folder of a run that is always made anew, because it takes seconds."""
    shutil.rmtree(RUNS / name, ignore_errors=True)
    execute("run.py", *overrides, f"run_dir={RUNS / name}", "logger=none")
    return RUNS / name


def save(picture: NDArray[np.uint8] | Image.Image | Path, name: str, width: int) -> None:
    """Write a picture to docs/pictures, at most so many pixels wide; large files get 256 colors."""
    image = Image.open(picture) if isinstance(picture, Path) else picture
    image = (image if isinstance(image, Image.Image) else Image.fromarray(image)).convert("RGB")
    if image.width > width:
        size = width, round(image.height * width / image.width)
        image = image.resize(size, Image.Resampling.LANCZOS)
    PICTURES.mkdir(exist_ok=True)
    file = PICTURES / f"{name}.png"
    image.save(file, optimize=True)
    if file.stat().st_size > LARGE:
        image.quantize(256, kmeans=1).save(file, optimize=True)
    print(f"{name}.png: {image.width} x {image.height}", flush=True)


def first_half(sheet: Path) -> Image.Image:
    """The first two rows of four, and the headings."""
    with Image.open(sheet) as image:
        return image.crop((0, 0, image.width, LINE + (image.height - LINE) // 2))


def quickstart_run() -> Path:
    return run("toy_quickstart", "experiment=toy_quickstart")


def hero_run() -> Path:
    return run("hero", "experiment=toy_quickstart", "train.iterations=1200")


def streets() -> list[Path]:
    root = toy_cityscapes(root=str(RUNS / "data"), num_train=1, num_val=SHOWN, size=SIZE)
    return sorted(Path(root, "cityscapes", "leftImg8bit", "val").rglob("*.png"))


def hero() -> None:
    """The image, and the panoptic prediction."""
    result = Predictor.from_run(hero_run(), device="cpu")(streets()[HERO])
    drawer = SegmentDrawer(
        names=result.classes.names,
        colors=result.classes.colors,
        thing_ids=result.classes.thing_ids,
        label_divisor=result.label_divisor,
        text_scale=1.8,  # it is shown in half of its size
    )
    assert result.panoptic is not None
    drawn = drawer.panoptic(result.image, result.panoptic)
    gap = np.full((len(drawn), 12, 3), 255, np.uint8)
    save(np.concatenate([result.image, gap, drawn], axis=1), "hero", 1600)


def demo_views() -> None:
    predictor = Predictor.from_run(hero_run(), device="cpu", branches=True)
    views = ["panoptic", "instances", "center", "offset"]
    save(predictor(streets()[VIEWS]).draw(views, layout="side_by_side"), "demo_views", 1500)


def evaluation() -> None:
    folder = again("evaluation", "mode=eval", f"weights={quickstart_run()}")
    save(folder / "predictions.png", "quickstart", 1464)
    save(folder / "pictures" / "worst.png", "evaluation_worst", 1600)
    save(folder / "pictures" / "pq_by_class.png", "evaluation_classes", 910)
    save(folder / "pictures" / "confusions.png", "evaluation_confusions", 1800)


def analysis() -> None:
    folder = again("analysis", "mode=analyze", f"weights={quickstart_run()}")
    save(folder / "analysis.png", "analysis", 1300)


def browse() -> None:
    folder = again("browse", "mode=browse", "dataset=toy_cityscapes")
    save(sorted((folder / "browse").iterdir())[BROWSED], "browse", 1952)


def first_look() -> None:
    """The tutorial's drawn export of CVAT."""
    data = RUNS / "data" / "export"
    if not data.is_dir():
        execute("-m", "tests.datasets.formats.exports", data)
    chosen = "experiment=first_look", "dataset=coco_instances", f"dataset.root={data}"
    folder = again("first_look_browse", "mode=browse", *chosen, "browse.count=1")
    save(next((folder / "browse").iterdir()), "first_look_browse", 900)
    folder = run("first_look", *chosen)
    save(first_half(folder / "predictions.png"), "first_look", 1200)


def custom_dataset() -> None:
    """What the guide to own annotations draws and trains on, of its own text."""
    texts = [page.read_text(encoding="utf-8") for page in (ROOT / "docs").rglob("*.md")]
    blocks = re.findall(r"^```\w+\n(.*?)^```$", "\n".join(texts), re.DOTALL | re.MULTILINE)
    (script,) = (block for block in blocks if block.startswith("# make_shapes.py"))
    (experiment,) = (block for block in blocks if "conf/experiment/shapes.yaml" in block)
    data, config = RUNS / "data" / "shapes", RUNS / "conf" / "experiment"
    if not data.is_dir():
        data.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-c", script], cwd=data.parent, check=True)
    config.mkdir(parents=True, exist_ok=True)
    (config / "shapes.yaml").write_text(experiment, encoding="utf-8")
    known = f"--config-dir={config.parent}", "experiment=shapes", f"dataset.root={data}"
    folder = run("shapes", *known)
    save(first_half(folder / "predictions.png"), "custom_dataset", 1200)


def serve() -> None:
    """The page of scripts/serve.py in a wide window, and on a phone in the dark."""
    from tests.processes.browser import Browser

    model = RUNS / "export" / "model.onnx"
    if not model.is_file():
        execute("run.py", "mode=export", f"weights={hero_run()}", f"run_dir={model.parent}")
    command = [sys.executable, "scripts/serve.py", str(model), "--port=0"]
    server = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    shots = []
    with TemporaryDirectory() as profile:
        browser = Browser(Path(profile))
        try:
            assert server.stderr is not None
            found = (re.search(r"http://[\d.:]+", line) for line in server.stderr)
            address = next(match[0] for match in found if match)
            for scheme, width in (("light", 1110), ("dark", 370)):
                browser.prefer(scheme)
                browser.resize(width, 716, mobile=width < 500)
                browser.open(address)
                browser.run(DROP % b64encode(streets()[SERVED].read_bytes()).decode())
                with Image.open(browser.picture(Path(profile, "shot.png"))) as shot:
                    shots.append(np.asarray(shot.convert("RGB")))
        finally:
            browser.close()
            server.terminate()
            server.wait()
    gap = np.full((len(shots[0]), 16, 3), 128, np.uint8)
    save(np.concatenate([shots[0], gap, shots[1]], axis=1), "serve", 1500)


DROP = """(() => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob("%s"), (letter) => letter.charCodeAt());
    data.items.add(new File([bytes], "street.png", { type: "image/png" }));
    document.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true }));
    return new Promise((done) => setInterval(() => document.body.className === "" &&
        document.getElementById("status").textContent && done(), 50));
})()"""


def report() -> None:
    from scripts.report_picture import report_picture

    save(report_picture([quickstart_run(), hero_run()]), "report", 2000)


def search() -> None:
    folder = RUNS / "search"
    execute("run.py", "-m", "sweep=toy_search", f"sweep_dir={folder}")
    save(folder / "search.png", "search", 1100)


MAKERS: dict[Callable[[], None], tuple[str, ...]] = {
    hero: ("hero",),
    demo_views: ("demo_views",),
    evaluation: (
        *("quickstart", "evaluation_worst", "evaluation_classes", "evaluation_confusions"),
    ),
    analysis: ("analysis",),
    browse: ("browse",),
    first_look: ("first_look", "first_look_browse"),
    custom_dataset: ("custom_dataset",),
    serve: ("serve",),
    report: ("report",),
    search: ("search",),
}
KEPT = {
    "analysis": "its page quotes its table, so both are made anew: it is made where it is named",
    "search": "12 trials take 15 minutes: it is made where it is named",
    "data_speed": "scripts/benchmark_data.py draws it beside the table that its page quotes",
    "speed": "mode=benchmark of the published models, beside the table that its page quotes",
    "finetuning": "scripts/compare_pretraining.py draws it, and needs COCO and ImageNet weights",
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="\n".join(f"{name}: {why}" for name, why in KEPT.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [name for made in MAKERS.values() for name in made]
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    wanted = set(parser.parse_args(arguments).names) or set(names) - set(KEPT)
    if unknown := wanted - set(names):
        parser.error(f"{', '.join(sorted(unknown))}: choose of {', '.join(names)}")
    for maker, made in MAKERS.items():
        if wanted & set(made):
            maker()


if __name__ == "__main__":
    main()

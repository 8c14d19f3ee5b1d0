"""mode=demo as people start it, and as they stop it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl import Predictor
from tests.demo.samples import make_run, scene
from tests.runs import command_line

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def panoptic_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("panoptic") / "run")


def test_ctrl_c_leaves_whole_files_and_their_json(panoptic_run, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.fromarray(scene(64, 128)).save(tmp_path / "one.png")
    for number in range(600):  # links to one file would be one input
        shutil.copy(tmp_path / "one.png", photos / f"{number:03d}.png")
    stopped = interrupt(panoptic_run, photos, tmp_path / "out", "panoptic/00[0-9].jpg")
    assert stopped.returncode == 130, stopped.output
    assert "are complete" in stopped.output
    assert "Traceback" not in stopped.output
    folder = tmp_path / "out" / "demo"
    pictures = list(folder.rglob("*.jpg"))
    assert 0 < len(pictures) < 600
    for picture in [*pictures, *folder.rglob("*.png")]:
        Image.open(picture).load()
    content = json.loads((folder / "coco_panoptic.json").read_text())
    listed = {a["file_name"] for a in content["annotations"]}
    assert listed == {file.name for file in (folder / "coco_panoptic").iterdir()}
    assert list(folder.rglob(".*")) == []


def interrupt(run, source, run_dir, pattern):
    """Start a demo as a terminal does; press Ctrl-C as soon as results of this name are there."""
    command = [sys.executable, "run.py", "mode=demo", f"weights={run.folder}", f"input={source}"]
    process = subprocess.Popen(
        [*command, f"run_dir={run_dir}", "demo.save=json", "demo.num_workers=2"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    output: list[str] = []
    reader = threading.Thread(target=lambda: output.append(process.stdout.read()))
    reader.start()
    deadline = time.monotonic() + 120
    while not list((run_dir / "demo").glob(pattern)) and time.monotonic() < deadline:
        time.sleep(0.02)
        assert process.poll() is None, output
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    reader.join()
    process.output = "".join(output)
    return process


def test_a_run_and_nothing_else(panoptic_run, tmp_path, capfd):
    photos = tmp_path / "photos"
    for name in ("a/x.jpg", "b/x.jpg", "y.png"):
        (photos / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(64, 128)).save(photos / name)
    (photos / "broken.png").write_bytes(b"hello")
    with pytest.raises(SystemExit) as stopped:
        command_line(
            *("mode=demo", f"weights={panoptic_run.folder}", f"input={photos}"),
            f"run_dir={tmp_path}/out",
        )
    assert stopped.value.code == 1
    output = "".join(capfd.readouterr())
    assert "error: 1 of 4 inputs failed" in output
    assert "Model: toy_cityscapes_panoptic_hrnet_tiny_conv" in output
    assert "drawn: 100% 4/4" in output
    assert "images/s" in output
    assert "bottleneck:" in output
    assert "Results of" in output  # which inputs have other names
    assert "Traceback" not in output
    assert len(list((tmp_path / "out" / "demo" / "panoptic").iterdir())) == 3


def test_a_predictor_serves_in_another_process(panoptic_run):
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    image = scene(64, 128)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        result = pool.submit(predictor, image).result()
    assert np.array_equal(result.panoptic, predictor(image).panoptic)

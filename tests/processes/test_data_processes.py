"""Unpacking that is stopped goes on with the same command; processes share a cache."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from panoptic_dl.data.cache import DecodedCache
from panoptic_dl.data.sources import open_source
from panoptic_dl.datasets.toy import toy_cityscapes
from tests.scripts.packed import images, run, tree, write

ROOT = Path(__file__).parents[2]


STARTED = """
import sys
from prepare_coco import check_coco, prepare_coco
from preparation import run_command
run_command("", prepare_coco, check_coco, "coco")
"""


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", STARTED, str(folder), "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": "scripts"},
        start_new_session=True,
        # As in a terminal, also where the tests' own SIGINT is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """An archive that takes a second or more."""
    folder = tmp_path_factory.mktemp("many")
    return write(folder / "val2017.zip", *images(1500, 80_000), method=zipfile.ZIP_STORED)


@pytest.mark.parametrize(
    ("number", "code", "all_of_them"),
    [
        (signal.SIGINT, 130, True),  # as a terminal sends it
        (signal.SIGTERM, 143, False),
        (signal.SIGTERM, 143, True),
        (signal.SIGKILL, -9, False),
    ],
)
def test_stopped_in_the_middle_and_run_again_gives_the_same(
    tmp_path, many, number, code, all_of_them
):
    os.link(many, tmp_path / "val2017.zip")
    target = tmp_path / "coco" / "val2017"
    process = start(tmp_path)
    while process.poll() is None and not (target.is_dir() and len(os.listdir(target)) > 20):
        time.sleep(0.005)
    (os.killpg if all_of_them else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    there = os.listdir(target)
    assert 0 < len(there) < 1500
    if number != signal.SIGKILL:
        assert "stopped; the same command goes on from here" in said
        assert "Traceback" not in said
        assert not any(name.startswith(".") for name in there)
    wait_for_group(process.pid)
    run(tmp_path, 2)
    with zipfile.ZipFile(many) as archive:
        expected = {i.filename: i.CRC for i in archive.infolist()}
    made = tree(tmp_path / "coco")
    assert {name: zipfile.crc32(data) for name, data in made.items()} == expected


def wait_for_group(group: int) -> None:
    """Until no process of the group lives: workers notice within a second that they are alone."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("a worker outlived the process that started it")


def write_image(file, seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return str(file)


def read_all(folder, names, wrong):
    cache = DecodedCache(folder, 1)
    for name in names:
        seen = open_source(name, "RGB", cache).rows(0, 20)
        if not np.array_equal(seen, open_source(name, "RGB").rows(0, 20)):
            wrong.put(name)


def test_processes_share_a_folder(tmp_path):
    names = [write_image(tmp_path / f"{number}.png", number) for number in range(30)]
    context = multiprocessing.get_context("fork")
    wrong = context.Queue()
    processes = [
        context.Process(target=read_all, args=(str(tmp_path / "cache"), names, wrong))
        for _ in range(4)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert wrong.empty()
    cache = DecodedCache(str(tmp_path / "cache"), 1)
    entries = list(cache.folder.glob("*/*"))
    assert len(entries) == 30  # and nothing unfinished
    used = int((cache.folder / "bytes_used").read_text())
    assert used >= sum(file.stat().st_size for file in entries)


def start_toy(code: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", f"from panoptic_dl.datasets.toy import *; {code}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_toy_data_of_a_killed_run_are_made_anew(tmp_path):
    arguments = f"root={str(tmp_path)!r}, num_train=30, num_val=1, size=(64, 128), num_workers=2"
    process = start_toy(f"toy_cityscapes({arguments})")
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("*_gtFine_color.png")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(tmp_path.glob(".toy_cityscapes_*.part-*"))
    assert not list(tmp_path.glob("toy_cityscapes_*"))
    folder = toy_cityscapes(
        root=str(tmp_path), num_train=30, num_val=1, size=(64, 128), num_workers=2
    )
    assert len(list(Path(folder).rglob("*_leftImg8bit.png"))) == 31
    assert not list(tmp_path.glob(".toy_cityscapes_*.part-*"))


def test_two_at_once_draw_toy_data_once(tmp_path):
    arguments = f"root={str(tmp_path)!r}, num_train=8, num_val=1, size=(64, 128), num_workers=1"
    processes = [start_toy(f"print(toy_cityscapes({arguments}))") for _ in range(2)]
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0]
    assert sorted(" 9/9 [" in errors for _, errors in outputs) == [False, True]
    assert len(list(Path(outputs[0][0].strip()).rglob("*_leftImg8bit.png"))) == 9

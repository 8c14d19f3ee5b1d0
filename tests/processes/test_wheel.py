"""The wheel, installed outside of the checkout: its files, its command, its runtime alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.runs import ENVIRONMENT, ROOT
from tests.runtime.samples import write_exported

SOURCES = (
    *("panoptic_dl", "hydra_plugins", "conf", "lazy_configs", "scripts", "setup.py", "LICENSE"),
    *("pyproject.toml", "MANIFEST.in", "README.md", "requirements-detectron2.lock"),
)
VERSION = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
BUILD = """
import sys, tarfile
from pathlib import Path
from setuptools.build_meta import build_sdist
archive = tarfile.open(Path("dist", build_sdist("dist")))
archive.extractall("unpacked")
"""
BUILD_WHEEL = "from setuptools.build_meta import build_wheel; build_wheel('../../dist')"
TINY = [
    *("experiment=toy_quickstart", "train.iterations=2", "train.batch_size=2"),
    *("dataset.root.num_train=2", "dataset.root.num_val=1", "dataset.root.size=[128,256]"),
    *("dataset.crop_size=[64,64]", "dataset.min_sizes=[64]", "dataset.min_size_test=64"),
    *("dataset.max_size_test=128", "train.num_workers=0", "evaluation.picture_count=0"),
    *("evaluation.best_and_worst=0", "evaluation.charts=false"),
]
RUNTIME = """
import sys
from pathlib import Path
from panoptic_dl.runtime import Session
import panoptic_dl
assert panoptic_dl.__version__
result = Session("model.onnx")("photograph.png")
print(len(result.classes), result.panoptic.shape, result.draw().shape[1:])
heavy = {"torch", "detectron2", "cv2", "scipy", "hydra", "omegaconf", "yaml"} & sys.modules.keys()
assert not heavy, heavy
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the checkout, by way of an archive of its sources, as `python -m build` makes."""
    folder = tmp_path_factory.mktemp("build")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder)
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    (unpacked,) = (folder / "unpacked").iterdir()
    words = [sys.executable, "-c", BUILD_WHEEL]
    subprocess.run(words, cwd=unpacked, check=True, capture_output=True)
    (file,) = (folder / "dist").glob("*.whl")
    return file


def installed(folder: Path, wheel: Path, *names: str, without: tuple[str, ...] = ()) -> Path:
    """A virtual environment with the wheel, and of the checkout's packages those of these names.

    Without names: all but panoptic-dl itself, and but `without`. Returns its folder of programs.
    """
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.prefix, "uv", "bin")))
    if uv is None:
        pytest.skip("there is no uv, which `make setup` installs")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    command = [uv, "pip", "install", "--offline", "--no-deps", "--python", python, wheel]
    subprocess.run(list(map(str, command)), check=True, capture_output=True)
    packages = folder / "packages"
    packages.mkdir()
    left_out = ("panoptic_dl", "__editable__", "_virtualenv", *without)
    for path in Path(sys.prefix).glob("lib/python3*/site-packages/*"):
        wanted = path.name.startswith(names) if names else not path.name.startswith(left_out)
        if wanted and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "packages_of_the_checkout.pth").write_text(f"{packages}\n")
    return folder / "bin"


def call(program: object, *arguments: object, cwd: Path, **changes: str):
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "PYTHONPATH"} | changes
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def programs(tmp_path_factory, wheel):
    return installed(tmp_path_factory.mktemp("full") / "venv", wheel)


@pytest.mark.thorough
def test_a_wheel_has_all_that_is_read(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for pattern in ("conf/**/*.yaml", "lazy_configs/**/*.py", "panoptic_dl/**/*.*"):
        here = {str(path.relative_to(ROOT)) for path in ROOT.glob(pattern)}
        here = {each for each in here if "__pycache__" not in each}
        prefix = "" if pattern.startswith("panoptic_dl") else "panoptic_dl/"
        assert {prefix + each for each in here} <= {*names}
    for name in ("py.typed", "requirements-detectron2.lock", "scripts/serve.html"):
        assert f"panoptic_dl/{name}" in names
    assert f"panoptic_dl-{VERSION}.dist-info/licenses/LICENSE" in names
    assert "hydra_plugins/panoptic_dl.py" in names
    here = {path.name for path in (ROOT / "scripts").glob("*.*")}
    missing = here - {Path(name).name for name in names if "/scripts/" in name}
    assert missing == {
        *("setup.py", "generate_docs.py", "publish_docs.py", "chaos.py", "benchmark_backbones.py"),
        *("compare_pretraining.py", "compare_training_options.py", "benchmark_startup.py"),
        *("gpu_check.py", "gpu_report.py", "pack_wheels.sh", "make_pictures.py"),
        "report_picture.py",
    }
    assert not [name for name in names if name.startswith("tests")]


@pytest.mark.slow
def test_without_detectron2_its_command_is_named(tmp_path, wheel):
    programs = installed(tmp_path / "venv", wheel, without=("detectron2", "sal_detectron2"))
    python, command = programs / "python", programs / "panoptic-dl"
    advice = "`panoptic-dl setup-detectron2` installs Detectron2"
    for arguments in (["--help"], ["experiment=toy_quickstart"], ["-m", "seed=0,1"]):
        done = call(command, *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith("error: No module named 'detectron2'")
        assert advice in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for code in (
        "from panoptic_dl import Predictor",
        "from panoptic_dl.config import compose; compose()",
    ):
        assert advice in call(python, "-c", code, cwd=tmp_path).stderr.splitlines()[-1]

    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    (site / "detectron2").mkdir()
    (site / "detectron2" / "__init__.py").write_text("official = True\n")
    done = call(command, "setup-detectron2", cwd=tmp_path)
    assert done.stdout == "keeping the Detectron2 that is already installed\n"
    shutil.rmtree(site / "detectron2")
    lock = site / "panoptic_dl" / "requirements-detectron2.lock"
    text = lock.read_text()
    done = call(command, "setup-detectron2", cwd=tmp_path)
    if done.returncode:
        assert "the same command again" in done.stderr
        pytest.skip("the registry cannot be reached")
    assert call(python, "-c", "from panoptic_dl import Predictor", cwd=tmp_path).stderr == ""
    assert not [*(site / "detectron2").glob("_C.*")]
    lock.write_text(text.replace("sha256:4", "sha256:5"))
    shutil.rmtree(site / "detectron2")
    done = call(command, "setup-detectron2", cwd=tmp_path)
    assert done.returncode == 1
    assert not (site / "detectron2").exists()


@pytest.mark.slow
def test_a_run_in_any_folder(programs, tmp_path):
    command, python = programs / "panoptic-dl", programs / "python"
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    own = "# @package _global_\ndefaults: [toy_quickstart]\ntrain: {iterations: 2}\nname: own\n"
    (tmp_path / "mine" / "experiment" / "own.yaml").write_text(own)
    words = [word for word in TINY if not word.startswith(("experiment", "train.iterations"))]
    done = call(command, "--config-dir", "mine", "experiment=own", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (run,) = (tmp_path / "outputs" / "own").iterdir()
    record = json.loads((run / "run.json").read_text())
    assert record["command"].startswith("panoptic-dl experiment=own ")
    assert record["status"] == "finished"
    assert "PQ" in json.loads((run / "results.json").read_text())["metrics"]

    code = (
        "import sys, numpy as np, panoptic_dl; from panoptic_dl import Predictor\n"
        "from panoptic_dl.config import build, compose\n"
        "assert 'site-packages' in panoptic_dl.__file__, panoptic_dl.__file__\n"
        "build(compose(['backbone=hrnet_tiny']).task.model)\n"
        "print(Predictor.from_run(sys.argv[1])(np.zeros((64, 128, 3), np.uint8)).panoptic.shape)"
    )
    done = call(python, "-c", code, run, cwd=tmp_path)
    assert done.stdout == "(64, 128)\n", done.stderr
    done = call(command, "export-weights", run, "--hub", "shared", cwd=tmp_path)
    assert "-> shared/model.safetensors" in done.stdout, done.stderr
    # A ValueError of a file in site-packages is one for people, too.
    done = call(command, *TINY, "launch.num_gpus=9", "run_dir=x", cwd=tmp_path)
    assert done.stderr.splitlines()[-2].startswith("error: launch.num_gpus=9, but this machine")
    assert "Traceback" not in done.stderr
    done = call(command, "experiment=toy_quickstart", "seed=0,1", cwd=tmp_path)
    assert "for a sweep: panoptic-dl -m ..." in done.stderr


@pytest.mark.slow
def test_rows_in_processes_of_their_own(programs, tmp_path):
    words = ["-m", "hydra/launcher=local", *TINY, "head=conv,dsconv", "sweep_dir=sweep"]
    done = call(programs / "panoptic-dl", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for head in ("conv", "dsconv"):
        record = json.loads((tmp_path / f"sweep/toy_quickstart-head={head}/run.json").read_text())
        assert record["status"] == "finished"


@pytest.mark.slow
def test_help_and_completion(programs, tmp_path):
    command = programs / "panoptic-dl"
    text = call(command, "--help", cwd=tmp_path).stdout
    assert "panoptic-dl experiment=toy_quickstart" in text
    assert "run.py" not in text
    assert call(command, "--version", cwd=tmp_path).stdout == f"panoptic-dl {VERSION}\n"
    (tmp_path / "complete.sh").write_text(call(command, "-sc", "install=bash", cwd=tmp_path).stdout)
    typed = """
        source complete.sh
        COMP_LINE='panoptic-dl backbone=hrnet_' COMP_CWORD=1
        COMP_POINT=${#COMP_LINE}
        hydra_bash_completion
        echo ${COMPREPLY[@]}
    """
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    done = call("bash", "-c", typed, cwd=tmp_path, PATH=path)
    assert done.stdout == "backbone=hrnet_tiny\n", done.stderr


@pytest.mark.thorough
def test_the_runtime_needs_three_packages(tmp_path, wheel):
    needed = ("numpy", "onnxruntime", "PIL", "pillow", "flatbuffers", "google", "packaging")
    python = installed(tmp_path / "venv", wheel, *needed) / "python"
    write_exported(tmp_path / "model.onnx")
    done = call(python, "-c", "import torch", cwd=tmp_path)
    assert done.stderr.splitlines()[-1].startswith("ModuleNotFoundError")
    picture = (
        "from PIL import Image; Image.linear_gradient('L').convert('RGB').save('photograph.png')"
    )
    assert call(python, "-c", picture, cwd=tmp_path).returncode == 0
    done = call(python, "-c", RUNTIME, cwd=tmp_path)
    assert done.stdout == "3 (256, 256) (256, 3)\n", done.stderr

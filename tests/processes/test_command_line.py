"""`python run.py` as typed: what it prints and ends with, before anything runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from panoptic_dl.config import compose

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "run.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_line_prints_plain_yaml():
    done = run("backbone=hrnet48", "dataset=coco", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    tree = OmegaConf.create(done.stdout)
    assert tree.task.model.sem_seg_head.num_classes == 133
    assert "${" not in done.stdout
    assert "!!python" not in done.stdout


def test_the_command_line_names_what_was_meant():
    done = run("backbone=hrnet48", "backbone.nrom=BN")
    assert done.returncode == 1
    assert done.stderr.startswith("error: Unknown key 'backbone.nrom'. Did you mean: backbone.norm")
    assert "Traceback" not in done.stderr


def test_a_sweep_names_what_was_meant(tmp_path):
    done = run("-m", "backbone=xception65,hrnet48", "optimzer.lr=1", f"sweep_dir={tmp_path}")
    assert done.returncode == 1
    assert "Did you mean: optimizer.lr" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_lists_groups_options_and_settings():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for word in (
        "hrnet18, hrnet32, hrnet48",
        "head: conv, dsconv",
        "mode: ",
        "experiment",
        "train.clip_norm=null  (a number, above 0, or null)",
    ):
        assert word in done.stdout


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = run("mode=eval", f"run_dir={tmp_path}/file/run")
    assert done.returncode == 1
    assert "cannot write to the output folder" in done.stderr
    assert "run_dir=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "word"), [("-sc query=bash", "train.batch_size="), ("--cfg job", "top_k: 200")]
)
def test_composing_imports_no_torch(arguments, word):
    compose()  # the trees of lazy files are kept from here on
    code = (
        f"import sys, runpy; sys.argv = ['run.py', *{arguments.split()}]\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"COMP_LINE": "python run.py train.batch", "COMP_POINT": "25"},
    )
    assert done.returncode == 0, done.stderr
    assert word in done.stdout


def test_signals_have_a_code_while_modules_are_imported(tmp_path):
    command = [sys.executable, "-X", "importtime", "run.py", f"run_dir={tmp_path}"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:  # a line for each module, once it is imported
        if "hydra" in line:
            process.send_signal(signal.SIGUSR1)
            break
    process.communicate()
    assert process.returncode == 130


def test_output_that_is_closed_or_ignored_is_no_error():
    help_ = f"{sys.executable} run.py --help"
    for command in (f"{help_} | true", f"{help_} >&- 2>&-"):
        done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), command

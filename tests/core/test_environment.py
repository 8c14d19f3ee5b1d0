"""What a run stands on: versions, devices, memory in MiB."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from panoptic_dl.core import environment
from panoptic_dl.launch.launcher import launch


def test_the_description_names_versions_and_devices():
    lines = dict(line.split(maxsplit=1) for line in environment.describe().splitlines())
    assert torch.__version__.startswith(lines["torch"])
    assert lines["hydra-core"] != "not installed"
    assert "compiled operators" in lines["detectron2"]
    assert ("GPU" in lines) != torch.cuda.is_available()


def test_a_measurement_names_its_device():
    assert "torch 2." in environment.describe_device("cpu")
    assert environment.measured_on("cpu")["device"] in environment.describe_device("cpu")
    assert environment.version("no-such-distribution") == "not installed"


def test_a_revision_is_that_of_these_sources_or_there_is_none(monkeypatch, tmp_path):
    def repository(folder):
        folder.mkdir(parents=True)
        commit = "git init -q && git -c user.name=a -c user.email=a@b commit -qm a --allow-empty"
        subprocess.run(commit, cwd=folder, check=True, shell=True)

    def sources(folder):
        monkeypatch.setattr(environment, "__file__", str(folder / "panoptic_dl/core/x.py"))
        folder.mkdir(exist_ok=True)

    repository(tmp_path / "project")
    repository(tmp_path / "other")
    sources(tmp_path / "project/inside")  # such as site-packages, or an unpacked archive
    with pytest.raises(ValueError, match="not a git checkout"):
        environment.git("rev-parse HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))  # in a hook
    with pytest.raises(ValueError, match="not a git checkout"):
        environment.git("rev-parse HEAD")
    sources(tmp_path / "project")
    (tmp_path / "project/latin1").write_bytes(b"\xe4\n")
    subprocess.run("unset GIT_DIR; git add latin1", cwd=tmp_path / "project", shell=True)
    assert len(environment.git("rev-parse HEAD")[0]) == 41
    assert "+\ufffd" in environment.git("diff HEAD")[0]
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own, for its tests
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ValueError, match=f"safe.directory {tmp_path}/project"):
        environment.git("rev-parse HEAD")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ValueError, match="git is not installed"):
        environment.git("rev-parse HEAD")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not forget a peak")
def test_a_peak_counts_from_the_reset_on():
    np.ones(2**26)  # 512 MiB, freed at once
    before = environment.reset_peak_memory(torch.device("cpu"))
    assert environment.peak_host_memory() < before + 100
    np.ones(2**25)  # 256 MiB
    assert before + 200 < environment.peak_memory(torch.device("cpu")) < before + 400
    assert environment.host_memory() < before + 100


def test_other_systems_know_the_peak_of_the_process(monkeypatch):
    monkeypatch.setattr(environment, "_status", lambda key: None)
    assert environment.host_memory() == environment.peak_host_memory() > 50


@pytest.fixture
def gpu(monkeypatch):
    """Call to set what the runtime says of a GPU, whatever this machine has."""

    def be(capability=(8, 0), count=1, init=lambda: None):
        monkeypatch.setattr(torch.version, "cuda", "13.2")
        monkeypatch.setattr(torch.cuda, "init", init)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla")
        built = ["sm_75", "sm_80", "sm_90a", "sm_120", "compute_120"]
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)

    return be


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (8, 9), (9, 0), (12, 0), (12, 1), (13, 0)])
def test_cards_that_this_torch_is_built_for(gpu, capability):
    gpu(capability)
    environment.check_gpus(1)


@pytest.mark.parametrize(
    ("capability", "cure"),
    [((7, 0), "take torch 2.14 for CUDA 12.6"), ((10, 0), "Take a newer torch")],
)
def test_cards_that_it_is_not_built_for_are_named_with_the_torch_to_take(gpu, capability, cure):
    gpu(capability)
    number = ".".join(map(str, capability))
    with pytest.raises(ValueError, match=rf"GPU 0 \(Tesla\) has .* {number}; .*sm_75.*{cure}"):
        environment.check_gpus(1)
    environment.check_gpus(0)


def test_a_driver_that_is_too_old_is_said_before_anything_starts(gpu, tmp_path):
    def init():
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12020).")

    gpu(init=init)
    with pytest.raises(ValueError, match=r"CUDA 13.2.* too old .*Update the driver.* torch 2\.14"):
        launch(print, num_gpus=None)


def test_gpus_that_a_run_does_not_use_are_named(gpu, monkeypatch):
    gpu(count=8)
    assert "launch.num_gpus=8" in environment.gpus_unused("cuda", 1)
    assert environment.gpus_unused("cuda", 8) is None
    assert environment.gpus_unused("cpu", 1) is None  # so it was asked for
    gpu(count=0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(environment.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    assert "for CUDA 13.2 sees none of" in environment.gpus_unused("cpu", 1)
    with pytest.raises(ValueError, match=r"machine has 0.*\(the CPU\)\. torch .* sees none of"):
        launch(print, num_gpus=8)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "without CUDA sees none of" in environment.gpus_unused("cpu", 1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert environment.gpus_unused("cpu", 1) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(environment.glob, "glob", lambda pattern: [])
    assert environment.gpus_unused("cpu", 1) is None

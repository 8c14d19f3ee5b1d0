"""What a run stands on: versions, devices, memory in MiB."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from panoptic_dl.core import environment


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

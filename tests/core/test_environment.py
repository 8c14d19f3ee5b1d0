"""What a run stands on: versions, devices, memory in MiB."""

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


def test_without_git_there_is_no_revision(monkeypatch):
    assert environment.git("no-such-command") is None
    monkeypatch.setenv("PATH", "/nowhere")
    assert environment.git("rev-parse HEAD") is None


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

"""What a run stands on."""

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

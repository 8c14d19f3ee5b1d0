"""What a run stands on."""

import subprocess

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
    def missing(command):
        raise FileNotFoundError(command)

    monkeypatch.setattr(environment, "git", missing)
    assert environment.git_revision() is None
    answers = {"rev-parse HEAD": "abc\n", "status --short": " M run.py\n"}
    monkeypatch.setattr(environment, "git", answers.get)
    assert environment.git_revision() == {"revision": "abc", "changed": True}

    def no_checkout(command):
        raise subprocess.CalledProcessError(128, command)

    monkeypatch.setattr(environment, "git", no_checkout)
    assert environment.git_revision() is None

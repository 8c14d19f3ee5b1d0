"""`benchmark_training.py`: it ends, and what has been measured is kept when a case fails."""

import argparse
import json

import pytest
import torch

from scripts import benchmark_training as training
from scripts.benchmark_training import sizes_of_batches


def test_doubling_ends():
    assert list(sizes_of_batches([4], torch.device("cuda"), 16)) == [4, 8, 16]
    assert list(sizes_of_batches([2, 6], torch.device("cuda"), 20)) == [2, 6, 12]
    assert list(sizes_of_batches([8], torch.device("cuda"), 4)) == [8]  # what is named is run
    assert list(sizes_of_batches([4, 8], torch.device("cpu"), 64)) == [4, 8]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("Too many open files"),
        ValueError("train.compile=true needs a C++ compiler"),
    ],
)
def test_a_case_that_fails_costs_no_other(tmp_path, monkeypatch, capsys, error):
    seen, kept = [], []

    def measure(config, setting, *_):
        kept.append((tmp_path / "steps.json").exists())
        seen.append((setting, config.train.batch_size))
        if setting == "bf16" and config.train.batch_size == 4:
            raise error
        return {"s/iter": 2.0 if setting == "fp32" else 1.0}

    monkeypatch.setattr(training, "measure", measure)
    options = argparse.Namespace(
        rows=["hrnet_tiny_conv"],
        settings=["fp32", "bf16", "tf32"],
        inputs=["synthetic"],
        batches=[2, 4, 8],
        largest_batch=8,
        size=(32, 64),
        num_workers=0,
        images=2,
        warmup=0,
        iterations=1,
        device="cpu",
        output=tmp_path / "steps.json",
    )
    lines = training.run(options)
    assert ("bf16", 8) not in seen  # larger ones would fail as well
    assert [line["batch"] for line in lines if line["setting"] == "bf16"] == [2]
    assert [line["speed"] for line in lines if line["setting"] == "tf32"] == [2.0, 2.0, 2.0]
    assert kept[:2] == [False, True]  # written as they come
    assert json.loads(options.output.read_text())["lines"] == lines
    out = capsys.readouterr().out
    assert "out of memory" in out if "memory" in str(error) else str(error) in out

"""The scripts that compare and time ways of training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import compare_training_options as comparing

ROOT = Path(__file__).parents[2]


def test_a_training_step_is_timed_on_both_inputs(tmp_path):
    file = tmp_path / "steps.json"
    done = subprocess.run(
        [
            *(sys.executable, "scripts/benchmark_training.py", "--rows", "hrnet_tiny_conv"),
            *("--size", "32", "64", "--batches", "2", "--iterations", "1", "--warmup", "1"),
            *("--settings", "fp32", "bf16+channels_last+activation_checkpointing"),
            *("--num-workers", "0", "--device", "cpu", "--output", str(file)),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PANOPTIC_DL_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(file.read_text())
    assert result["size"] == [32, 64]
    assert [(line["setting"][:4], line["input"]) for line in result["lines"]] == [
        *(("fp32", "synthetic"), ("fp32", "mapper")),
        *(("bf16", "synthetic"), ("bf16", "mapper")),
    ]
    for line in result["lines"]:
        assert line["images/s"] == pytest.approx(2 / line["s/iter"])
        assert line["peak MiB"] > 0
    assert result["lines"][0]["speed"] == 1
    assert result["machine"] in done.stdout


def test_an_option_may_be_worse_than_the_seeds_by_their_spread_but_not_more(monkeypatch, tmp_path):
    assert comparing.expected([50.0, 53.0, 51.0]) == (47.0, 56.0)
    assert comparing.expected([50.0, 50.5]) == (49.0, 51.5)
    figures = {"seed0": 50.0, "seed1": 53.0, "good": 47.5, "bad": 46.9, "high": 56.5}
    monkeypatch.setattr(
        comparing, "train", lambda folder, _: {"PQ": figures[folder.name], "seconds": 1.0}
    )
    rows, passed = comparing.compare([0, 1], {"good": (), "bad": (), "high": ()}, tmp_path)
    assert not passed
    assert [row[-1] for row in rows[2:]] == [
        "as the seeds",
        "LOWER than 47.0",
        "higher than 56.0",
    ]
    assert comparing.compare([0, 1], {"good": ()}, tmp_path)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(comparing.OPTIONS))
def test_the_toy_learns_as_much_with_every_option(tmp_path, toy_baseline, name):
    found = comparing.train(tmp_path, [*comparing.OPTIONS[name], "seed=0"])
    figures = [found["PQ"], *([found["ema/PQ"]] if "ema/PQ" in found else [])]
    assert min(figures) >= comparing.expected(toy_baseline)[0]


@pytest.fixture(scope="module")
def toy_baseline(tmp_path_factory):
    """PQ of the toy without any option, of three seeds."""
    folder = tmp_path_factory.mktemp("seeds")
    return [comparing.train(folder / str(n), [f"seed={n}"])["PQ"] for n in range(3)]

"""run.py as a user runs it: training, evaluating, resuming, several processes, and bad input.

All 16 real combinations of parts are trained and evaluated, on toy data in the official formats.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from panoptic_dl.config import build, compose
from run import work

ROOT = Path(__file__).parents[1]
HEAD = [
    "head.aspp_channels=16",
    "head.panoptic.semantic.decoder_dim=16",
    "head.panoptic.semantic.head_channels=16",
    "head.panoptic.instance.decoder_dim=16",
    "head.semantic.decoder_dim=16",
]
SMALL = [
    *("backbone=hrnet_tiny", *HEAD),
    *("dataset.crop_size=[64,64]", "dataset.min_sizes=[64,80]", "dataset.size_divisibility=0"),
    *("dataset.min_size_test=64", "dataset.max_size_test=128"),
    *("train.iterations=2", "train.batch_size=2", "train.num_workers=0", "train.log_period=1"),
]


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Overrides that make a toy dataset small, in a cache that the whole session shares."""
    # One for all xdist workers: the generator is safe against several at once.
    cache = tmp_path_factory.getbasetemp().parent / "toy"
    numbers = ["dataset.root.num_train=4", "dataset.root.num_val=2", f"dataset.root.root={cache}"]
    sizes = {"toy_cityscapes": "[128,256]", "toy_coco": "[96,128]"}
    return {
        name: [f"dataset={name}", *numbers, f"dataset.root.size={size}"]
        for name, size in sizes.items()
    }


def in_process(run_dir, *overrides):
    """What run.py does in its only process, without the cost of starting Python."""
    run_dir.mkdir(parents=True, exist_ok=True)
    return work("cpu", compose([*overrides, f"run_dir={run_dir}"]), ())


def run(*arguments, **options):
    return subprocess.run(
        [sys.executable, "run.py", *map(str, arguments)],
        **{
            "cwd": ROOT,
            "capture_output": True,
            "text": True,
            "env": os.environ | {"OMP_NUM_THREADS": "1"},
            **options,
        },
    )


@pytest.mark.parametrize(
    ("dataset", "task"),
    list(itertools.product(("toy_cityscapes", "toy_coco"), ("panoptic", "semantic"))),
)
def test_train_then_eval_of_its_checkpoint_give_the_same_figures(tmp_path, toy, dataset, task):
    overrides = [*SMALL, *toy[dataset], f"task={task}"]
    trained = in_process(tmp_path / "train", *overrides)
    saved = json.loads((tmp_path / "train" / "results.json").read_text())
    columns = {
        "toy_cityscapes": ["PQ", "SQ", "RQ", "mIoU", "AP"],
        "toy_coco": ["PQ", "SQ", "RQ", "box_AP", "mask_AP"],
    }[dataset]
    assert list(saved["metrics"])[:5] == (columns if task == "panoptic" else ["mIoU"])
    assert saved["num_images"] == 2
    assert (tmp_path / "train" / "predictions.png").is_file()
    weights = tmp_path / "train" / "model_final.pth"
    evaluated = in_process(tmp_path / "eval", *overrides, "mode=eval", f"weights={weights}")
    assert json.dumps(evaluated["metrics"]) == json.dumps(trained["metrics"])  # NaN equals NaN


COMBINATIONS = list(
    itertools.product(
        ("xception65", "hrnet48"),
        ("conv", "dsconv"),
        ("cityscapes", "coco"),
        ("panoptic", "semantic"),
    )
)


@pytest.mark.parametrize(("backbone", "head", "dataset", "task"), COMBINATIONS)
@pytest.mark.slow
def test_all_sixteen_combinations_train_and_evaluate(tmp_path, toy, backbone, head, dataset, task):
    parts = [f"backbone={backbone}", f"head={head}", f"task={task}"]
    results = in_process(
        tmp_path, *SMALL[1 + len(HEAD) :], *toy[f"toy_{dataset}"], *parts, "train.iterations=1"
    )
    assert results["num_images"] == 2


def test_two_processes_train_evaluate_and_agree_on_the_figures(tmp_path, toy):
    done = run(
        *SMALL,
        *toy["toy_cityscapes"],
        "launch.num_cpu_processes=2",
        f"run_dir={tmp_path}",
        timeout=300,
        # As users start it: conftest.py sets the number of threads for tests.
        env={k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    share = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"(2 processes, {share} CPU threads each)" in (tmp_path / "log.txt").read_text()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["num_images"] == 2
    assert "layers use NaiveSyncBatchNorm" in (tmp_path / "log.txt").read_text()
    # The processes hold the same weights: what the file says is what either evaluates to.
    again = in_process(
        tmp_path / "eval",
        *SMALL,
        *toy["toy_cityscapes"],
        "mode=eval",
        f"weights={tmp_path / 'model_final.pth'}",
    )
    assert again["metrics"]["mIoU"] == pytest.approx(results["metrics"]["mIoU"], abs=1e-6)


@pytest.mark.parametrize(
    ("send", "number", "num_workers"),
    [(os.kill, signal.SIGINT, 0), (os.killpg, signal.SIGINT, 1), (os.killpg, signal.SIGTERM, 1)],
    ids=["kill", "Ctrl-C in a terminal", "scancel"],
)
def test_an_interrupted_run_resumes(tmp_path, toy, send, number, num_workers):
    command = [*SMALL, *toy["toy_cityscapes"], f"run_dir={tmp_path}", "train.iterations=300"]
    command.append(f"train.num_workers={num_workers}")
    process = subprocess.Popen(
        [sys.executable, "run.py", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    metrics = tmp_path / "metrics.json"
    while not (metrics.is_file() and metrics.read_text()) and time.monotonic() < deadline:
        time.sleep(0.2)
        assert process.poll() is None, process.communicate()[0]
    send(process.pid, number)
    started = time.monotonic()
    output = process.communicate(timeout=120)[0]
    assert time.monotonic() - started < 20, "workers held up the end"
    assert process.returncode == 75, output
    assert "resume=true" in output
    assert "Traceback" not in output
    done = int((tmp_path / "last_checkpoint").read_text()[len("model_") : -len(".pth")])
    results = in_process(
        tmp_path, *SMALL, *toy["toy_cityscapes"], f"train.iterations={done + 2}", "resume=true"
    )
    assert results["num_images"] == 2
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [x["iteration"] for x in lines if "total_loss" in x] == list(range(done + 2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mode=eval"], "mode=eval needs weights="),
        (["mode=eval", "weights=/nowhere/model.pth"], "weights=/nowhere/model.pth"),
        (["launch.num_gpus=64"], "launch.num_gpus=64, but this machine has"),
        (["train.batch_size=3", "launch.num_cpu_processes=2"], "a batch of 3 images"),
        (["train.precision=int4"], "train.precision=int4"),
    ],
)
def test_bad_input_is_one_message(tmp_path, toy, arguments, message):
    done = run(*SMALL, *toy["toy_cityscapes"], *arguments, f"run_dir={tmp_path}")
    assert done.returncode == 1
    assert f"error: {message}" in done.stderr.replace("\n", " ")
    assert "Traceback" not in done.stderr


def test_a_damaged_image_met_in_training_is_one_message(tmp_path, toy):
    config = compose([*SMALL, *toy["toy_cityscapes"], f"dataset.root.root={tmp_path / 'cache'}"])
    root = Path(build(config.dataset.root))
    for image in sorted(root.glob("cityscapes/leftImg8bit/train/*/*.png")):
        image.write_bytes(image.read_bytes()[:2000])
    overrides = [f"dataset.root.root={tmp_path / 'cache'}", f"run_dir={tmp_path / 'run'}"]
    done = run(*SMALL, *toy["toy_cityscapes"], *overrides)
    assert done.returncode == 1
    assert "error: cannot read" in done.stderr
    assert "leftImg8bit" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback" in (tmp_path / "run" / "error.txt").read_text()


def test_the_error_of_an_attempt_is_gone_after_the_next(tmp_path, toy):
    (tmp_path / "error.txt").write_text("of an attempt before")
    in_process(tmp_path, *SMALL, *toy["toy_cityscapes"], "train.iterations=1")
    assert not (tmp_path / "error.txt").exists()


def test_a_missing_dataset_names_folder_and_cure(tmp_path):
    done = run(f"run_dir={tmp_path}", f"dataset.root={tmp_path}/none", "backbone=hrnet_tiny")
    assert done.returncode == 1
    assert f"{tmp_path}/none" in done.stderr
    assert "prepare_cityscapes.py" in done.stderr
    assert "Traceback" not in done.stderr


def test_weights_of_another_architecture_are_described(tmp_path, toy):
    import torch

    torch.save({"model": {"backbone.conv1.weight": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(SystemExit):
        in_process(
            tmp_path / "run",
            *SMALL,
            *toy["toy_cityscapes"],
            "mode=eval",
            f"weights={tmp_path / 'w.pth'}",
        )
    assert "of another architecture" in (tmp_path / "run" / "error.txt").read_text()


def test_sweeps_run_every_combination(tmp_path, toy):
    sweep = ["-m", "head=conv,dsconv", f"hydra.sweep.dir={tmp_path}"]
    done = run(*sweep, *SMALL, *toy["toy_cityscapes"], timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(p.parent.name for p in tmp_path.glob("*/results.json"))
    names = [f"toy_cityscapes_panoptic_hrnet_tiny_{head}" for head in ("conv", "dsconv")]
    assert folders == names


@pytest.mark.parametrize("dataset", ["toy_cityscapes", "toy_coco"])
def test_a_trained_model_is_evaluated_by_all_means(tmp_path, toy, dataset):
    overrides = [*SMALL, *toy[dataset], "train.iterations=1"]
    trained = in_process(tmp_path / "trained", *overrides)
    weights = f"weights={tmp_path / 'trained' / 'model_final.pth'}"
    beside = ["evaluation.official=true", "evaluation.save=[panoptic,instances]"]
    evaluated = in_process(tmp_path / "model", *overrides, "mode=eval", weights, *beside)
    assert json.dumps(evaluated["metrics"]) == json.dumps(trained["metrics"])
    files = f"predictions={tmp_path / 'model' / 'predictions'}"
    scored = in_process(tmp_path / "files", *overrides, "mode=eval", files)
    expected = {key: value for key, value in trained["metrics"].items() if key != "mIoU"}
    assert json.dumps(scored["metrics"]) == json.dumps(expected)
    looks = ["evaluation.flip=true", "evaluation.scales=[1.0,1.5]"]
    averaged = in_process(tmp_path / "looks", *overrides, "mode=eval", weights, *looks)
    assert list(averaged["metrics"]) == list(trained["metrics"])

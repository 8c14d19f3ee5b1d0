"""run.py started by torchrun, on several machines, and by Hydra's launchers, as users do it."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.runs import ENVIRONMENT, ROOT, SMALL, free_port, run


def torchrun(*arguments):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*command, "--master-port", str(free_port()), "run.py", *map(str, arguments)]


def holds_one_run(folder, num_processes=2):
    """One record, one log of the whole, one set of results."""
    assert sorted(p.name for p in (folder / ".hydra").iterdir()) == [
        *("config.yaml", "hydra.yaml", "overrides.yaml", "resolved.yaml"),
    ]
    logs = sorted(p.name for p in folder.glob("log.txt*"))
    assert logs == ["log.txt", *(f"log.txt.rank{i}" for i in range(1, num_processes))]
    assert f"({num_processes} process" in (folder / "log.txt").read_text()
    lines = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "total_loss" in line] == [0, 1]
    assert json.loads((folder / "results.json").read_text())["num_images"] == 2
    return True


def test_an_error_in_a_process_of_torchrun_ends_all(tmp_path, toy):
    command = torchrun(*SMALL, *toy["toy_cityscapes"], "train.batch_size=3", f"run_dir={tmp_path}")
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: a batch of 3 images" in done.stderr


def test_two_machines_share_one_folder(tmp_path, toy):
    url = f"launch.dist_url=tcp://127.0.0.1:{free_port()}"
    numbers = ["launch.num_machines=2", url, f"run_dir={tmp_path}"]
    machines = [
        subprocess.Popen(
            [
                *(sys.executable, "run.py", *SMALL, *toy["toy_cityscapes"], *numbers),
                f"launch.machine_rank={rank}",
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
        )
        for rank in (1, 0)
    ]
    assert [machine.wait(timeout=400) for machine in machines] == [0, 0]
    assert holds_one_run(tmp_path)


@pytest.mark.parametrize(
    ("launcher", "num_processes"),
    [
        pytest.param(["hydra/launcher=submitit_local"], 2, marks=pytest.mark.slow),
        pytest.param(["hydra/launcher=local"], 1, marks=pytest.mark.slow),
        pytest.param(
            ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], 2, marks=pytest.mark.slow
        ),
    ],
    ids=["submitit_local", "local", "joblib"],
)
def test_launchers_run_every_job_in_its_folder(tmp_path, toy, launcher, num_processes):
    done = run(
        *("-m", *launcher, *SMALL, *toy["toy_cityscapes"], "seed=0,1"),
        *(f"launch.num_cpu_processes={num_processes}", f"hydra.sweep.dir={tmp_path}"),
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    folders = sorted(path.parent for path in tmp_path.glob("*/results.json"))
    name = "toy_cityscapes_panoptic_hrnet_tiny_conv"
    assert [folder.name for folder in folders] == [f"{name}-seed=0", f"{name}-seed=1"]
    for seed, folder in enumerate(folders):
        assert holds_one_run(folder, num_processes)
        assert f"seed={seed}" in (folder / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.slow
def test_jobs_for_slurm_are_described_by_the_preset(tmp_path, toy):
    """A false sbatch keeps the script and runs it here, as the job 71."""
    programs = {
        "sbatch": (
            f'cp "$1" {tmp_path}/script.sh\necho "Submitted batch job 71"\n'
            f'SLURM_JOB_ID=71 SLURM_NTASKS=1 bash "$1" > {tmp_path}/job.txt 2>&1 &\n'
        ),
        "srun": 'while [ "${1#--}" != "$1" ]; do case "$1" in --output|--error) shift;; esac; '
        'shift; done\nexec "$@"\n',
        "sacct": 'echo "JobID|State|NodeList"\n',
    }
    (tmp_path / "bin").mkdir()
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text("#!/bin/bash\n" + text)
        (tmp_path / "bin" / name).chmod(0o755)
    done = run(
        *("-m", "hydra/launcher=slurm", *SMALL, *toy["toy_cityscapes"]),
        *("hydra.launcher.gpus_per_node=null", f"hydra.sweep.dir={tmp_path}/sweep"),
        *("hydra.launcher.partition=tests", "launch.num_gpus=0"),
        env=ENVIRONMENT | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"},
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (tmp_path / "job.txt").read_text()
    script = (tmp_path / "script.sh").read_text().splitlines()
    for line in ("nodes=1", "ntasks-per-node=1", "time=1440", "signal=USR2@120", "partition=tests"):
        assert f"#SBATCH --{line}" in script
    assert holds_one_run(next((tmp_path / "sweep").glob("toy*")), 1)


def test_torchrun_makes_one_folder_and_saves_on_sigterm(tmp_path, toy):
    # Without a name each process would take the time of its own start, to the microsecond here.
    run_dir = f"{tmp_path}/run/${{now:%H-%M-%S-%f}}"
    process = subprocess.Popen(
        torchrun(*SMALL, *toy["toy_cityscapes"], f"run_dir={run_dir}", "train.iterations=300"),
        cwd=ROOT,
        env=ENVIRONMENT,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while not any(metrics.read_text() for metrics in tmp_path.glob("run/*/metrics.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=120)
    (folder,) = (tmp_path / "run").iterdir()
    assert sorted(p.name for p in folder.glob("log.txt*")) == ["log.txt", "log.txt.rank1"]
    assert (folder / "last_checkpoint").is_file()
    log = (folder / "log.txt").read_text()
    assert "(2 process" in log
    assert "Stopped by SIGTERM after iteration" in log

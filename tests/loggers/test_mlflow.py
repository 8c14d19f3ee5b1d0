"""What MLflow has of a run, read back from its store without a server."""

import io
from multiprocessing import get_context

import mlflow
import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from panoptic_dl.config import build, compose
from panoptic_dl.launch.signals import Interrupted
from panoptic_dl.loggers import mlflow as ours
from panoptic_dl.loggers.base import Loggers, Run
from panoptic_dl.loggers.mlflow import MLflowLogger
from tests.train.tiny_run import Dying, Killed, Stopping, TinyModel, run_training

from .detailed import Detailed, write_facts


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """One for all: making its tables takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def store(database, request):
    """An experiment of its own: a function that makes loggers, and one that reads its runs."""
    experiment = request.node.name
    client = mlflow.MlflowClient(database)

    def logger(**options):
        return {
            "mlflow": MLflowLogger(
                tracking_uri=database, experiment=experiment, name="tiny", **options
            )
        }

    def runs():
        return client.search_runs([client.get_experiment_by_name(experiment).experiment_id])

    logger.client, logger.runs = client, runs
    return logger


def steps(store, run, name):
    return [each.step for each in store.client.get_metric_history(run.info.run_id, name)]


def artifacts(store, run, place=None):
    found = []
    for each in store.client.list_artifacts(run.info.run_id, place):
        found += artifacts(store, run, each.path) if each.is_dir else [each.path]
    return found


def test_everything_is_there(tmp_path, store):
    write_facts(tmp_path)
    options = {"eval_period": 2, "iterations": 4, "evaluation": Detailed(40.0, 60.0)}
    run_training(tmp_path, loggers=store(tags={"who": "me"}), **options)
    (run,) = store.runs()
    assert (run.info.run_name, run.info.status) == ("tiny", "FINISHED")
    tags = run.data.tags
    assert (tags["backbone"], tags["sweep"], tags["who"]) == ("hrnet48", "cityscapes", "me")
    assert (tags["mode"], tags["exit_code"]) == ("train", "0")
    assert tags["mlflow.source.git.commit"] == "abc"
    parameters = run.data.params
    assert parameters == {
        **{"optimizer.lr": "0.05", "seed": "7", "network.parameters": "65"},
        **{"backbone": "hrnet48", "head": "conv", "x_y": "1"},
    }
    assert steps(store, run, "loss/total") == [0, 1, 2, 3]
    assert steps(store, run, "time/data") == [0, 1, 2, 3]
    assert steps(store, run, "val/PQ") == [1, 3]
    assert run.data.metrics["val/PQ"] == 60.0
    assert np.isnan(run.data.metrics["val/AP"])
    assert run.data.metrics["val_PQ/car"] == 10.0
    files = artifacts(store, run)
    assert {"resolved.yaml", "about.json"} <= set(files)
    pictures = [f"evaluation_000000{i}" for i in (1, 3)]
    names = ("pictures/worst.jpg", "predictions/1.jpg")
    assert {f for f in files if "/" in f} == {f"{p}/{name}" for p in pictures for name in names}
    place = f"{pictures[1]}/predictions/1.jpg"
    with open(store.client.download_artifacts(run.info.run_id, place, str(tmp_path)), "rb") as file:
        picture = np.asarray(Image.open(io.BytesIO(file.read()))).astype(int)
    assert np.abs(picture[:, :15] - (0, 0, 255)).max() < 20  # the ground truth


def test_killed_and_resumed_has_each_point_once(tmp_path, store):
    options = {"iterations": 9, "eval_period": 5, "evaluation": Detailed(40.0)}
    with pytest.raises(Killed):
        run_training(tmp_path, model=Dying(7), loggers=store(), **options)
    (run,) = store.runs()
    assert max(steps(store, run, "loss/total")) == 6  # trained again
    run_training(tmp_path, resume=True, loggers=store(), **options)
    (again,) = store.runs()
    assert again.info.run_id == run.info.run_id
    assert again.info.status == "FINISHED"
    assert steps(store, again, "loss/total") == list(range(9))
    assert steps(store, again, "val/PQ") == [4, 8]


def test_a_run_that_had_no_mlflow_is_caught_up_with(tmp_path, store):
    run_training(tmp_path, iterations=3, evaluation=Detailed(40.0))
    run_training(tmp_path, iterations=5, resume=True, loggers=store(), evaluation=Detailed(50.0))
    (run,) = store.runs()
    assert steps(store, run, "loss/total") == list(range(5))
    assert steps(store, run, "val/PQ") == [2, 4]


def test_how_it_ended_is_logged(tmp_path, store):
    failing = TinyModel()
    failing.fail_at = 3
    for name, model, error in (
        ("stopped", Stopping(4), Interrupted),
        ("failed", failing, FloatingPointError),
    ):
        with pytest.raises(error):
            run_training(tmp_path / name, model=model, loggers=store())
    ended = {run.data.tags["exit_code"]: run.info.status for run in store.runs()}
    assert ended == {"75": "KILLED", "76": "FAILED"}


def test_a_benchmark_and_files_of_results(tmp_path, store):
    (tmp_path / "benchmark.json").write_text("{}")
    picture = tmp_path / "benchmark.png"
    Image.new("RGB", (8, 8)).save(picture)
    with Loggers(store()) as loggers:
        loggers.start(Run(tmp_path, "benchmark"))
        loggers.measured({"total ms": 3.0, "time (CPU)": 4.0}, [picture])
    (run,) = store.runs()
    assert run.data.metrics == {"benchmark/total ms": 3.0, "benchmark/time _CPU_": 4.0}
    assert set(artifacts(store, run)) == {
        "about.json",
        "benchmark.json",
        "benchmark/pictures/benchmark.jpg",
    }


def test_a_store_of_files(tmp_path, monkeypatch):
    """MLflow refuses these since 3.17, unless its variable allows them."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "mlruns").as_uri()
    logger = MLflowLogger(tracking_uri=uri, experiment="files", name="tiny", pictures=False)
    run_training(tmp_path / "run", iterations=2, loggers={"m": logger}, evaluation=Detailed())
    client = mlflow.MlflowClient(uri)
    (run,) = client.search_runs([client.get_experiment_by_name("files").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "loss/total")) == 2
    (about,) = client.list_artifacts(run.info.run_id)  # no pictures
    assert about.path == "about.json"


def begin(uri, folder):
    with Loggers({"m": MLflowLogger(tracking_uri=uri, experiment="x", name="n")}) as loggers:
        loggers.start(Run(folder, "train"))
        loggers.step(0, {"total_loss": 1.0})


@pytest.mark.thorough
def test_runs_that_begin_together_make_one_database(tmp_path):
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    folders = [tmp_path / name for name in "abc"]
    processes = [get_context("spawn").Process(target=begin, args=(uri, f)) for f in folders]
    for folder, process in zip(folders, processes, strict=True):
        folder.mkdir()
        process.start()
    for process in processes:
        process.join()
    client = mlflow.MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert [run.data.metrics for run in found] == [{"loss/total": 1.0}] * 3


def test_a_server_that_does_not_answer_stops_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    logger = MLflowLogger(tracking_uri="http://127.0.0.1:9", experiment="x", name="tiny")
    run_training(tmp_path, iterations=2, loggers={"mlflow": logger})
    assert (tmp_path / "model_final.pth").is_file()
    warnings = [r.getMessage() for r in caplog.records if "left out" in r.getMessage()]
    assert len(warnings) == 1
    assert warnings[0].startswith("logger=mlflow failed")


def test_a_missing_package_is_one_error(monkeypatch):
    monkeypatch.setattr(ours, "mlflow", None)
    with pytest.raises(ValueError, match=r"logger=mlflow needs .* 'panoptic-dl\[mlflow\]'"):
        MLflowLogger(tracking_uri="", experiment="", name="")


def test_its_variables_count_and_a_password_stays_in_them(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    options = compose(["logger=mlflow"]).logger.mlflow
    assert (options.tracking_uri, options.experiment) == (None, "panoptic-dl")
    addresses = []

    class Client:
        def __init__(self, address):
            addresses.append(address)
            raise RuntimeError("no server")

    monkeypatch.setattr(ours.mlflow, "MlflowClient", Client)
    for given in (None, "http://me:secret@here:5000"):
        if given:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
        config = compose(["logger=mlflow"])
        assert "secret" not in OmegaConf.to_yaml(config, resolve=True)
        with pytest.raises(RuntimeError, match="no server"):
            build(config.logger.mlflow).start(Run(tmp_path, "train"))
    assert addresses == ["sqlite:///outputs/mlflow.db", "http://me:secret@here:5000"]
    assert ours.without_password(addresses[1]) == "http://here:5000"

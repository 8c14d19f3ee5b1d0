"""Logger of MLflow: one run there for each run folder, also when that is resumed.

The store is a server or a database file. A tag, whose value `mlflow.json` in the folder holds,
finds the run again. What the store lacks when a run goes on is sent from metrics.json; what is
trained again is not sent again.
"""

import contextlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from panoptic_dl.core.files import file_lock
from panoptic_dl.core.run_folder import MLFLOW_ARTIFACTS, RESOLVED
from panoptic_dl.loggers.base import (
    Details,
    Logger,
    Metrics,
    Run,
    facts_of,
    is_evaluation,
    jpeg,
    line_number,
    run_id,
    tagged,
    tagged_classes,
    tagged_files,
    tagged_pictures,
)

for _variable, _value in {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # seconds; by default 120, and 7 retries
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
}.items():
    os.environ.setdefault(_variable, _value)
try:
    import mlflow
    from mlflow.entities import Metric, Param
except ImportError:  # an extra
    mlflow = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

ID_FILE, ID_TAG = "mlflow.json", "panoptic_dl_id"
DATABASE = "sqlite:///"
OWN_STORE = f"{DATABASE}outputs/mlflow.db"
STATUS = {"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
FILES = ("results.json", "results.csv", "results.md", "benchmark.json")  # at the end
BATCH, LONGEST = 100, 500  # parameters in a call, and letters of one


class MLflowLogger(Logger):
    """Logs what metrics.json has, and parameters, tags, pictures, results and the config."""

    def __init__(
        self,
        *,
        experiment: str,
        name: str,
        tracking_uri: str | None = None,
        tags: Mapping[str, str] | None = None,
        pictures: bool = True,
    ) -> None:
        """
        Args:
            tracking_uri, experiment, name, tags: as MLflow has them. The artifacts of a database
                file, `sqlite:///FILE`, lie beside it. Without an address MLFLOW_TRACKING_URI has
                it: that may hold a password, which no saved config should.
            pictures: log the pictures of evaluations.

        Raises:
            ValueError: the package is missing.
        """
        if mlflow is None:
            raise ValueError("logger=mlflow needs an extra: pip install 'panoptic-dl[mlflow]'")
        self._uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or OWN_STORE
        self._experiment, self._name = experiment, name
        self._tags, self._pictures = dict(tags or {}), pictures
        self._client: Any = None
        self._id = ""  # MLflow's, of the run
        self._run: Run | None = None
        self._last = -1  # the last line that the run has, see `line_number`

    def start(self, run: Run) -> None:
        artifacts: str | None = None
        alone: Any = contextlib.nullcontext()
        if self._uri.startswith(DATABASE):
            file = Path(self._uri.removeprefix(DATABASE)).absolute()
            file.parent.mkdir(parents=True, exist_ok=True)
            artifacts = (file.parent / MLFLOW_ARTIFACTS).as_uri()
            alone = file_lock(file.with_suffix(".lock"))  # several runs may make the tables at once
        with alone:
            client: Any = mlflow.MlflowClient(self._uri)
            if client.get_experiment_by_name(self._experiment) is None:
                with contextlib.suppress(mlflow.MlflowException):  # another run has just made it
                    client.create_experiment(self._experiment, artifacts)
        experiment = client.get_experiment_by_name(self._experiment).experiment_id
        tag = run_id(run.folder, ID_FILE)
        found = client.search_runs([experiment], f"tags.{ID_TAG} = '{tag}'", max_results=1)
        facts = facts_of(run)
        tags = {**facts.choices, "mode": run.mode, "sweep": facts.sweep, **self._tags, ID_TAG: tag}
        tags["mlflow.source.git.commit"] = (facts.about.get("git") or {}).get("revision")
        tags = {key: str(value) for key, value in tags.items() if value}
        entry = found[0] if found else client.create_run(experiment, None, tags, self._name)
        self._client, self._id, self._run = client, entry.info.run_id, run
        client.update_run(self._id, "RUNNING")
        given = {_name(key): value for key, value in facts.parameters.items()}
        new = sorted(given.keys() - entry.data.params)  # which MLflow never changes
        parameters = [Param(key, str(given[key])[:LONGEST]) for key in new]
        for at in range(0, len(parameters), BATCH):
            client.log_batch(self._id, params=parameters[at : at + BATCH])
        client.log_dict(self._id, dict(facts.about), "about.json")
        if (run.folder / RESOLVED).exists():
            client.log_artifact(self._id, str(run.folder / RESOLVED))
        self._last = max(
            (
                line_number(point.step, name != "loss/total")
                for name in entry.data.metrics
                if name == "loss/total" or name.startswith("val/")
                for point in client.get_metric_history(self._id, name)
            ),
            default=-1,
        )
        for line in run.history:
            self._log(self._new_points(int(line["iteration"]), line))
        logger.info("MLflow: run %s in %s", self._id, without_password(self._uri))

    def step(self, iteration: int, metrics: Metrics) -> None:
        self._log(self._new_points(iteration, metrics))

    def evaluation(self, iteration: int, metrics: Metrics, details: Details) -> None:
        self._log(self._new_points(iteration, metrics, tagged_classes(details)))
        if self._pictures:
            self._log_pictures(tagged_pictures(details), f"evaluation_{iteration:07d}")

    def measured(self, metrics: Metrics, pictures: Sequence[Path]) -> None:
        mode = self._run.mode if self._run else ""
        self._log(_points(0, {f"{mode}/{name}": value for name, value in metrics.items()}))
        self._log_pictures(tagged_files(pictures), mode)

    def finish(self, status: str, exit_code: int) -> None:
        if self._run is None:
            return
        for name in FILES:
            if (self._run.folder / name).exists():
                self._client.log_artifact(self._id, str(self._run.folder / name))
        self._client.set_tag(self._id, "exit_code", str(exit_code))
        self._client.set_terminated(self._id, STATUS[status])

    def _new_points(self, iteration: int, line: Metrics, more: Metrics | None = None) -> list[Any]:
        """The numbers of a line of metrics.json, unless the run has that line."""
        number = line_number(iteration, is_evaluation(line))
        if number <= self._last:
            return []
        self._last = number
        return _points(iteration, {**tagged(line), **(more or {})})

    def _log(self, points: Sequence[Any]) -> None:
        if points:
            self._client.log_batch(self._id, metrics=points)

    def _log_pictures(self, pictures: Mapping[str, Image.Image], place: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            for tag, picture in pictures.items():
                file = Path(folder, place, f"{tag}.jpg")
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(jpeg(picture))
            self._client.log_artifacts(self._id, folder)


def without_password(address: str) -> str:
    """An address to be shown: without a user's name and password."""
    return re.sub(r"//[^/]*@", "//", address)


def _points(iteration: int, values: Metrics) -> list[Any]:
    now = int(1000 * time.time())
    return [Metric(_name(key), float(value), now, iteration) for key, value in values.items()]


def _name(text: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", text)

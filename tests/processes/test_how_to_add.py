"""The recipes of docs/explanation/architecture.md, "How to add", followed in a copy of the project.

Each is used on the command line, and seen in the report where it belongs there.
"""

import json
import shutil
import subprocess
import sys

import pytest
import yaml

from tests.runs import ENVIRONMENT, ROOT, SMALL

METRIC = '''"""The share of pixels that have a class."""

from panoptic_dl.evaluation.semantic import StreamingSemanticEvaluator


class CoveredEvaluator(StreamingSemanticEvaluator):
    """Counts predicted pixels."""

    needs = "sem_seg"

    def evaluate(self):
        results = super().evaluate()
        if results is None:
            return None
        share = self.confusions[:, :-1].sum() / self.confusions.sum()
        return {"covered": {"Covered": 100.0 * float(share)}}
'''
LOGGER = '''"""A line of text for every step."""

from panoptic_dl.loggers.base import Logger


class LinesLogger(Logger):
    """Writes lines.txt."""

    def start(self, run):
        self.file = run.folder / "lines.txt"

    def step(self, iteration, metrics):
        with self.file.open("a") as file:
            file.write(f"{iteration} {metrics['total_loss']}\\n")
'''
MODE = '''"""mode=count: how many images a split has."""

from detectron2.data import DatasetCatalog


def count(*, device, dataset, run_dir):
    """Count the images of a registered dataset."""
    return {"metrics": {"images": len(DatasetCatalog.get(dataset))}}
'''
DATASET = '''"""Streets of our own, which lie as Cityscapes does."""

from panoptic_dl.datasets.cityscapes import cityscapes_panoptic
from panoptic_dl.datasets.toy.cityscapes import toy_cityscapes


def streets(*, root, split):
    """Register a split; return its name."""
    drawn = toy_cityscapes(root=root, num_train=4, num_val=2, size=(128, 256))
    return cityscapes_panoptic(root=drawn, split=split, prefix="streets_")
'''
LAZY_DATASET = """from detectron2.config import LazyCall as L

from panoptic_dl.datasets.streets import streets

from .cityscapes import dataset

dataset.root = "DRAWN"
dataset.train.panoptic = L(streets)(root="${dataset.root}", split="train")
dataset.test.panoptic = L(streets)(root="${dataset.root}", split="val")
"""


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) == 1, (file, old)
    file.write_text(text.replace(old, new))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project, with one addition by each recipe."""
    copy = tmp_path_factory.mktemp("project")
    for name in ("panoptic_dl", "lazy_configs", "conf", "scripts", "run.py"):
        source = ROOT / name
        place = shutil.copytree if source.is_dir() else shutil.copy
        place(source, copy / name)
    package, conf = copy / "panoptic_dl", copy / "conf"
    # A setting: a field of its group's class, and its use.
    edit(
        package / "core" / "settings.py",
        "    log_period: int = key(",
        '    greeting: str | None = key(None, "Words for the log.")\n    log_period: int = key(',
    )
    train = package / "train" / "train.py"
    edit(
        train,
        "    model.to(place)\n",
        '    logger.info("Greeting: %s", options.greeting)\n    model.to(place)\n',
    )
    # A metric: its evaluator, and its lines in the table.
    (package / "evaluation" / "covered.py").write_text(METRIC)
    metrics = package / "evaluation" / "metrics.py"
    edit(
        metrics, "METRICS = (\n", 'METRICS = (\n    Metric("Covered", (("covered", "Covered"),)),\n'
    )
    line = 'Evaluator("covered", "covered.CoveredEvaluator", ("cityscapes.semantic",))'
    edit(metrics, "EVALUATORS = (\n", f"EVALUATORS = (\n    {line},\n")
    # A logger: a module and a config.
    (package / "loggers" / "lines.py").write_text(LOGGER)
    target = {"_target_": "panoptic_dl.loggers.lines.LinesLogger"}
    (conf / "logger" / "lines.yaml").write_text(yaml.safe_dump({"lines": target}))
    # A mode: a module and a config.
    (package / "modes" / "count.py").write_text(MODE)
    mode = {
        "_target_": "panoptic_dl.modes.count.count",
        "dataset": "${dataset.test.panoptic}",
        "run_dir": "${run_dir}",
    }
    (conf / "mode" / "count.yaml").write_text(yaml.safe_dump(mode))
    # A dataset: a module that configs may call, a lazy file and a recipe.
    (package / "datasets" / "streets.py").write_text(DATASET)
    allowed = '    "panoptic_dl.datasets.coco",\n'
    edit(
        package / "config" / "builder.py",
        allowed,
        allowed + '    "panoptic_dl.datasets.streets",\n',
    )
    drawn = str(tmp_path_factory.getbasetemp().parent / "toy")
    (copy / "lazy_configs" / "dataset" / "streets.py").write_text(
        LAZY_DATASET.replace("DRAWN", drawn)
    )
    recipe = (conf / "recipe" / "toy_cityscapes_panoptic.yaml").read_text()
    (conf / "recipe" / "streets_panoptic.yaml").write_text(recipe)
    return copy


def python(project, *arguments):
    environment = ENVIRONMENT | {"PYTHONPATH": str(project)}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_setting_a_metric_and_a_logger_from_the_command_line_to_the_report(project, toy):
    options = [*SMALL, *toy["toy_cityscapes"], "task=semantic"]
    chosen = ["train.greeting=hello", "logger=lines", "run_dir=outputs/run"]
    printed = python(project, "run.py", *options, *chosen)
    assert "Greeting: hello" in printed
    run = project / "outputs" / "run"
    assert [line.split()[0] for line in (run / "lines.txt").read_text().splitlines()] == ["0", "1"]
    metrics = json.loads((run / "results.json").read_text())["metrics"]
    assert metrics["Covered"] == 100.0
    python(project, "scripts/report.py", run, "--out", project / "report")
    reports = [file.read_text() for file in (project / "report").glob("*.csv")]
    assert any("Covered" in text for text in reports)


def test_a_mode_and_a_dataset_from_the_command_line(project):
    python(project, "run.py", "mode=count", "dataset=streets", "run_dir=outputs/count")
    state = json.loads((project / "outputs" / "count" / "run.json").read_text())
    assert state["metrics"] == {"images": 2}


def test_a_dataset_trains(project):
    options = [*SMALL, "dataset=streets", "dataset.stuff_area=32", "run_dir=outputs/streets"]
    python(project, "run.py", *options)
    metrics = json.loads((project / "outputs" / "streets" / "results.json").read_text())["metrics"]
    assert "PQ" in metrics

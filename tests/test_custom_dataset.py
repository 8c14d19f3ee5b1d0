"""What how-to/formats.md and the tutorial of own images say is done here, on fewer images."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog
from PIL import Image

from panoptic_dl.config import compose
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.datasets.importing import recognize
from tests.datasets.formats import exports
from tests.runs import HEAD, in_process

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "how-to" / "formats.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs" / "tutorials" / "custom_dataset.md").read_text(encoding="utf-8")
SMALL = [*HEAD, "dataset.min_size_test=64", "train.iterations=2", "train.num_workers=0"]


def blocks(language):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE)
    return [text for kind, text in found if kind == language]


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The folder of run.py, with the guide's dataset and experiment in it."""
    (script,) = (code for code in blocks("python") if code.startswith("# make_shapes.py"))
    script = script.replace('write("train", 80', 'write("train", 4')
    script = script.replace('write("val", 20', 'write("val", 2')
    monkeypatch.chdir(tmp_path)
    exec(compile(script, "make_shapes.py", "exec"), {})
    (experiment,) = blocks("yaml")
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    file = re.search(r"conf/experiment/\w+\.yaml", experiment)[0]
    (tmp_path / file).write_text(experiment)
    monkeypatch.setattr("panoptic_dl.config.composition.CONF", conf)
    return tmp_path


def test_the_worked_example_works(at_home):
    (commands,) = (b for b in blocks("bash") if "experiment=shapes" in b)
    ours = [shlex.split(line)[2:] for line in commands.splitlines()]
    assert len(ours) == 3
    results = []
    for overrides in ours:
        named = [o for o in overrides if o.startswith("run_dir=")]
        run_dir = at_home / (named[0].partition("=")[2] if named else f"run{len(results)}")
        results.append(in_process(run_dir, *overrides, *SMALL))
    trained, evaluated, semantic = results
    assert json.dumps(trained["metrics"]) == json.dumps(evaluated["metrics"])
    header = next(line for line in GUIDE.splitlines() if line.startswith("|     |   PQ"))
    columns = [cell.strip().replace(" ", "_") for cell in header.split("|")[2:-1]]
    assert list(trained["metrics"]) == columns
    assert list(semantic["metrics"]) == ["mIoU"]
    assert (at_home / "run1" / "predictions" / "panoptic").is_dir()
    timed = ["dataset.classes_file=outputs/shapes/classes.json", "mode=benchmark"]
    assert timed[0] in GUIDE
    shutil.rmtree(at_home / "shapes")
    timed += ["benchmark.image_size=[64,64]", "benchmark.iterations=1", "weights=outputs/shapes"]
    assert in_process(at_home / "timed", "experiment=shapes", *SMALL, *timed)["metrics"]


def test_the_format_in_the_guide_is_the_format(tmp_path):
    content = json.loads(blocks("json")[0])
    for place in ("annotations", "train", "panoptic_train"):
        (tmp_path / place).mkdir()
    (tmp_path / "annotations" / "panoptic_train.json").write_text(json.dumps(content))
    Image.new("RGB", (160, 128)).save(tmp_path / "train" / "photo.jpg")
    Image.new("RGB", (160, 128)).save(tmp_path / "panoptic_train" / "photo.png")
    classes = custom_classes(
        form="coco_format", root=str(tmp_path), train_split="train", test_split="val"
    )
    assert classes.names == ("ball", "wall")
    (record,) = DatasetCatalog.get(
        custom_dataset(
            form="coco_format",
            task="panoptic",
            part="train",
            classes=classes,
            root=str(tmp_path),
            split="train",
        )
    )
    assert [segment["category_id"] for segment in record["segments_info"]] == [1, 0]


TOOLS = dict(
    re.findall(r"^\| ([^|`]+) \| [^|]* \| `((?:task=\w+ )?dataset=\w+)` \|$", GUIDE, re.MULTILINE)
)
EXPORTS = exports.INSTANCES | exports.MASKS | exports.PANOPTIC


def test_every_export_has_its_row():
    assert TOOLS.keys() == EXPORTS.keys()


@pytest.mark.parametrize("tool", TOOLS)
def test_the_command_of_every_tool_trains_and_evaluates(tmp_path, monkeypatch, tool):
    monkeypatch.chdir(tmp_path)
    root = Path("unpacked")  # a folder is named as it is seen from here
    EXPORTS[tool][1](root, exports.draw(4), exports.draw(2, "other", seed=1))
    assert recognize(root)[2] == f"python run.py {TOOLS[tool]} dataset.root={root}"
    given = [*TOOLS[tool].split(), f"dataset.root={root}"]
    sizes = ["dataset.crop_size=[64,64]", "dataset.min_sizes=[64]", "evaluation.picture_count=0"]
    small = ["experiment=first_look", "train.eval_period=0", "evaluation.charts=false"]
    metrics = in_process(tmp_path / "run", *small, *SMALL, *sizes, *given)["metrics"]
    assert next(iter(metrics)) == ("mIoU" if "task=semantic" in given else "PQ")


def test_every_number_and_file_that_the_guide_names_exists():
    config = compose(["dataset=coco_format"])
    table = TUTORIAL.partition("## Which numbers to change")[2].partition("##")[0]
    rows = re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
    assert len(rows) > 10
    for cell, value in rows:
        for name in re.findall(r"`([\w.]+)`", cell):
            place = config if "." in name else config.dataset
            for key in name.split("."):
                place = place[key]
            if isinstance(place, (int, float)) and name != "optimizer.lr" and "," not in value:
                assert float(value) == place, name
    known = {key for tool in set(TOOLS.values()) for key in compose(tool.split()).dataset}
    for key in re.findall(r"`dataset\.(\w+)=", GUIDE + TUTORIAL):
        assert key in known, key

"""Options compose in every combination; what is mistyped is refused with what was meant."""

import itertools
import pickle
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf

from panoptic_dl.config import ConfigError, build, compose
from panoptic_dl.config.composition import suggest

ROOT = Path(__file__).parents[2]
OPTIONS = sorted(
    f"{p.parent.name}={p.stem}" for p in (ROOT / "lazy_configs").glob("*/[!_]*.py")
) + sorted(
    f"{p.parent.name}={p.stem}"
    for group in ("experiment", "optimizer", "schedule", "train", "launch", "mode")
    for p in (ROOT / "conf" / group).glob("*.yaml")
)
COMBINATIONS = list(
    itertools.product(
        ("xception65", "hrnet48"),
        ("conv", "dsconv"),
        ("cityscapes", "coco"),
        ("panoptic", "semantic"),
    )
)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_composes_resolves_and_survives_yaml(option):
    cfg = compose([option, "run_dir=outputs/fixed"])  # not the time, which goes on meanwhile
    assert OmegaConf.create(OmegaConf.to_yaml(cfg)) == cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    OmegaConf.resolve(cfg)
    assert not OmegaConf.missing_keys(cfg)


@pytest.mark.parametrize(("backbone", "head", "dataset", "task"), COMBINATIONS)
def test_all_sixteen_combinations_compose(backbone, head, dataset, task):
    cfg = compose([f"backbone={backbone}", f"head={head}", f"dataset={dataset}", f"task={task}"])
    assert cfg.name == f"{dataset}_{task}_{backbone}_{head}"
    resolved = OmegaConf.to_container(cfg.task, resolve=True)
    model = resolved["model"]
    assert model["sem_seg_head"]["num_classes"] == {"cityscapes": 19, "coco": 133}[dataset]
    assert model["sem_seg_head"]["use_depthwise_separable_conv"] == (head == "dsconv")
    assert ("ins_embed_head" in model) == (task == "panoptic")


def test_the_defaults():
    assert dict(compose().choice) == {
        "backbone": "xception65",
        "head": "conv",
        "dataset": "cityscapes",
        "task": "panoptic",
    }


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("dataset.crop_size=[256,512]", "task.model.sem_seg_head.train_size", [256, 512]),
        ("dataset.crop_size=[256,512]", "dataset.crop_size", [256, 512]),
        ("optimizer.lr=5e-4", "mode.optimizer.lr", 5e-4),
        ("backbone.norm=BN", "task.model.backbone.norm", "BN"),
        ("dataset.num_classes=5", "task.model.sem_seg_head.num_classes", 5),
        ("train.iterations=7", "schedule.max_iters", 7),
        ("optimizer=sgd", "optimizer.optimizer.momentum", 0.9),
    ],
)
def test_leaves_can_be_overridden_and_flow(override, key, value):
    tree = OmegaConf.create(OmegaConf.to_container(compose([override]), resolve=True))
    assert OmegaConf.select(tree, key) == value


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("backbone.nrom=BN", "backbone.norm"),
        ("dataset.cropsize=[1,1]", "dataset.crop_size"),
        ("optimiser.lr=1", "optimizer"),
        ("train.batchsize=2", "train.batch_size"),
        ("bakbone=hrnet48", "backbone"),
        ("weihts=x", "weights"),
        ("lr=1", "optimizer.lr"),
    ],
)
def test_a_typo_is_refused_with_the_near_names(typo, meant):
    with pytest.raises(ConfigError, match=f"Did you mean:.*{meant}") as caught:
        compose(["backbone=hrnet48", typo])
    assert isinstance(caught.value, ConfigCompositionException)
    assert isinstance(caught.value, ValueError)


def test_an_unknown_option_lists_the_options():
    with pytest.raises(ConfigError, match=r"(?s)hrnet49.*hrnet18.*hrnet48.*xception65"):
        compose(["backbone=hrnet49"])


def test_a_dataset_without_recipe_lists_the_recipes():
    with pytest.raises(ConfigError, match=r"(?s)recipe/nothing.*cityscapes_panoptic"):
        compose(["recipe=nothing"])


def test_a_yaml_option_may_derive_from_a_lazy_one(tmp_path, monkeypatch):
    import shutil

    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    (conf / "backbone").mkdir()
    (conf / "backbone" / "tiny_gn.yaml").write_text("defaults: [hrnet_tiny, _self_]\nnorm: GN\n")
    monkeypatch.setattr("panoptic_dl.config.composition.CONF", conf)
    cfg = compose(["backbone=tiny_gn"])
    assert cfg.backbone.norm == "GN"
    assert cfg.backbone.width == compose(["backbone=hrnet_tiny"]).backbone.width
    assert cfg.decoder.panoptic.in_features


def test_the_saved_config_builds_the_same_model(tmp_path):
    cfg = compose(["backbone=hrnet_tiny", "dataset=toy_cityscapes", "head=dsconv"])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    models = [build(c.task.model) for c in (cfg, OmegaConf.load(tmp_path / "config.yaml"))]
    assert repr(models[0]) == repr(models[1])
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in models]
    assert shapes[0] == shapes[1]


def run(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "run.py", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_the_command_line_prints_plain_yaml():
    done = run("backbone=hrnet48", "dataset=coco", "--cfg", "job", "--resolve")
    assert done.returncode == 0, done.stderr
    tree = OmegaConf.create(done.stdout)
    assert tree.task.model.sem_seg_head.num_classes == 133
    assert "${" not in done.stdout
    assert "!!python" not in done.stdout


def test_the_command_line_names_what_was_meant():
    done = run("backbone=hrnet48", "backbone.nrom=BN")
    assert done.returncode == 1
    assert "Did you mean: backbone.norm" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["photo (1).jpg", "Müller.jpg", "~/x.jpg", "a=b.jpg", "it's.jpg"])
def test_the_command_line_says_how_to_write_a_text(name, capsys):
    suggest(["mode=demo", f"input={name}"])
    (_, said) = capsys.readouterr().err.strip().split("as plain text it is: ")
    (override,) = shlex.split(said)  # as the shell hands it over
    assert compose(["mode=demo", override]).input == name


@pytest.mark.parametrize("whole", ["input=a.jpg", "input=[a,b", "input='a"])
def test_no_quotes_are_advised_where_they_are_not_what_is_missing(whole, capsys):
    suggest([whole])
    assert not capsys.readouterr().err


def test_help_lists_groups_and_options():
    done = run("--help")
    assert done.returncode == 0, done.stderr
    for word in (
        "backbone: hrnet18, hrnet32, hrnet48",
        "head: conv, dsconv",
        "mode: ",
        "experiment",
    ):
        assert word in done.stdout


def test_an_output_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    done = run("mode=eval", f"run_dir={tmp_path}/file/run")
    assert done.returncode == 1
    assert "cannot write to the output folder" in done.stderr
    assert "run_dir=FOLDER" in done.stderr
    assert "Traceback" not in done.stderr


def test_completion_imports_no_torch(tmp_path):
    code = (
        "import sys, runpy; sys.argv = ['run.py', '-sc', 'query=bash']\n"
        "try: runpy.run_path('run.py', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "sys.exit('torch' in sys.modules)"
    )
    environment = {
        "COMP_LINE": "python run.py backbone=",
        "COMP_POINT": "23",
        "PATH": "/usr/bin:/bin",
    }
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert "backbone=hrnet48" in done.stdout
    assert time.perf_counter() - started < 20  # hangs, not speed: that is measured elsewhere

"""Options compose in every combination; what is mistyped is refused with what was meant."""

import itertools
import pickle
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from hydra.types import RunMode
from omegaconf import OmegaConf

from panoptic_dl.config import ConfigError, build, builder, compose, lazy
from panoptic_dl.config.composition import _arguments, loader, open_run, options
from panoptic_dl.core.errors import one_line_errors

ROOT = Path(__file__).parents[2]
GROUPS = {
    folder.name: sorted(f"{folder.name}={p.stem}" for p in folder.glob("[!_]*.*"))
    for group in ("backbone", "dataset", "head", "task", "optimizer", "logger", "hardware", "mode")
    for folder in (ROOT / "lazy_configs" / group, ROOT / "conf" / group)
    if folder.is_dir()
}
# Every option once, with others of other groups; experiments make a choice of all of them.
CHOICES = [
    *(list(filter(None, choices)) for choices in itertools.zip_longest(*GROUPS.values())),
    *([f"{p.parent.name}={p.stem}"] for p in (ROOT / "conf" / "experiment").glob("*.yaml")),
]
COMBINATIONS = list(
    itertools.product(
        ("xception65", "hrnet48"),
        ("conv", "dsconv"),
        ("cityscapes", "coco"),
        ("panoptic", "semantic"),
    )
)


@pytest.fixture
def option(tmp_path, monkeypatch):
    """Writes an option of one's own into a copy of conf/."""
    conf = tmp_path / "conf"
    shutil.copytree(ROOT / "conf", conf)
    monkeypatch.setattr("panoptic_dl.config.composition.CONF", conf)

    def write(group: str, text: str) -> str:
        (conf / group).mkdir(exist_ok=True)
        (conf / group / "mine.yaml").write_text(text)
        return f"{group}=mine"

    return write


@pytest.mark.parametrize("choice", CHOICES, ids=" ".join)
@pytest.mark.thorough
def test_every_option_composes_resolves_and_survives_yaml(choice):
    only = ["task=semantic"] if "dataset=masks" in choice else []
    choice = [word for word in choice if not (only and word.startswith("task="))]
    cfg = compose([*choice, *only, "run_dir=outputs/fixed"])  # not the time, which goes on
    assert OmegaConf.create(OmegaConf.to_yaml(cfg)) == cfg
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    OmegaConf.resolve(cfg)
    missing = {key.rpartition(".")[2] for key in OmegaConf.missing_keys(cfg)}
    # The size of a custom dataset decides, see `set_iterations`.
    by_size = {"iterations", "max_iters"} if cfg.recipe_record.epochs else set()
    assert missing <= by_size


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
        "optimizer": "adam",
        "schedule": "poly",
        "loss": "published",
        "augmentation": "published",
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
    with pytest.raises(
        ConfigError,
        match=r"no backbone=hrnet49\. Did you mean: hrnet48.*Options: .*hrnet18, .*xception65",
    ):
        compose(["backbone=hrnet49"])


def test_a_dataset_without_recipe_lists_the_recipes():
    with pytest.raises(ConfigError, match=r"no recipe=nothing\..*cityscapes_panoptic"):
        compose(["recipe=nothing"])


def test_a_yaml_option_may_derive_from_a_lazy_one(option):
    cfg = compose([option("backbone", "defaults: [hrnet_tiny, _self_]\nnorm: GN\n")])
    assert cfg.backbone.norm == "GN"
    assert cfg.backbone.width == compose(["backbone=hrnet_tiny"]).backbone.width
    assert cfg.decoder.panoptic.in_features


def test_every_backbone_may_be_trained_from_scratch(option):
    """Also one that is written in YAML alone, which names no pre-trained file."""
    lines = ["# @package _global_", "choice: {backbone: mine}", "pixels: {mean: [0.0], std: [1.0]}"]
    lines += ["decoder: {panoptic: {in_features: [a]}, semantic: {in_features: [a]}}"]
    made = option("backbone", "\n".join([*lines, "backbone: {_target_: torch.nn.Identity}"]))
    for choice in (made, *(f"backbone={name}" for name in options("backbone"))):
        assert compose([choice, "dataset=toy_coco", "pretrained=null"]).pretrained is None
    derived = option("backbone", "defaults: [hrnet18, _self_]\nnorm: GN\n")
    assert compose([derived]).pretrained.file == "hrnetv2_w18_imagenet_pretrained.pth"


def test_the_saved_config_builds_the_same_model(tmp_path):
    cfg = compose(["backbone=hrnet_tiny", "dataset=toy_cityscapes", "head=dsconv"])
    OmegaConf.save(cfg, tmp_path / "config.yaml")
    models = [build(c.task.model) for c in (cfg, OmegaConf.load(tmp_path / "config.yaml"))]
    assert repr(models[0]) == repr(models[1])
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in models]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["photo (1).jpg", "Müller.jpg", "~/x.jpg", "a=b.jpg", "it's.jpg"])
def test_a_text_that_cannot_be_parsed_is_shown_quoted(name):
    with pytest.raises(ConfigError) as caught:
        compose(["mode=demo", f"input={name}"])
    (_, quoted) = str(caught.value).split("as plain text it is: ")
    (override,) = shlex.split(quoted)  # as the shell hands it over
    assert compose(["mode=demo", override]).input == name


@pytest.mark.parametrize("broken", ["input=[a,b", "input='a"])
def test_no_quotes_are_advised_where_they_are_not_what_is_missing(broken):
    with pytest.raises(ConfigError) as caught:
        compose([broken])
    assert "as plain text" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.batch_size=abc", "a whole number, such as the default 32"),
        ("train.batch_size=2.5", "a whole number"),
        ("train.batch_size=true", "a whole number"),
        ("train.eval_at_end=1", "true or false"),
        ("optimizer.lr=fast", "a number, such as the default 0.001"),
        ("optimizer.lr=[1]", "a single value"),
        ("dataset.crop_size=512", "a list"),
        ("dataset.crop_size=[512]", r"\[height, width\]"),
        ("dataset.crop_size=[0,64]", "a list of numbers from 1 on"),
        ("dataset.min_sizes=[0]", "a list of numbers from 1 on"),
        ("dataset.min_sizes=[a,b]", "a list with a whole number in it"),
        ("decoder.panoptic=3", "a group of keys"),
        ("seed=abc", "a whole number"),
        ("train.images_per_gpu=abc", "a whole number or null"),  # null by default
        ("evaluation.scales=[a]", "a list of numbers"),
        ("demo.batch_size=abc", "a whole number"),
    ],
)
def test_values_of_another_kind_are_refused(override, expected):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"{key}=.*expected {expected}"):
        compose([override, *(["mode=demo"] if key.startswith("demo") else [])])


@pytest.mark.parametrize(
    "override",
    [
        "optimizer.lr=1",
        "seed=null",
        "weights=a.pth",
        "resume=auto",
        "resume=true",
        "name=12",
        "dataset.min_sizes=[512]",
        "dataset.crop_size=[64,96]",
        "pixels.mean=[1,2,3]",
        "launch.num_gpus=2",
        "backbone.norm=null",
    ],
)
def test_values_of_the_same_kind_are_taken(override):
    compose([override])


def test_defaults_are_those_of_the_options_chosen():
    with pytest.raises(ConfigError, match="default 64"):
        compose(["dataset=coco", "train.batch_size=abc"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size=0", "train.batch_size=0 must be a whole number, at least 1"),
        ("train.ema=1.5", "train.ema=1.5 must be a number, above 0 and below 1, or null"),
        ("train.precision=fp8", "train.precision=fp8 is unknown; choose fp32, tf32, bf16, fp16"),
        ("recipe_record.iterations=-3", "train.iterations=-3 must be"),
        ("launch.num_gpus=-1", "launch.num_gpus=-1 must be"),
        ("evaluation.save=bananas", "save=bananas is unknown; choose null, panoptic, instances"),
        ("evaluation.save=[panoptic,masks]", "evaluation.save=masks is unknown; choose"),
        ("mode=demo demo.views=[panoptic,depth]", "demo.views=depth is unknown; choose"),
        ("resume=maybe", "resume=maybe is unknown; choose true, false, auto"),
        ("seed=-1", "seed=-1 must be a whole number, at least 0, or null"),
        ("dataset.augmentation=all", "choose crop_first, reference"),
        ("dataset.image_format=XYZ", "choose RGB, BGR"),
        ("dataset.max_bad_samples=-1", "must be a whole number, at least 0"),
        ("dataset.ignore_label=18", "=18 must be a number that no class has: 19..255"),
        ("dataset=coco dataset.ignore_label=132", "133..255 for the classes 0..132"),
        ("dataset=coco_format dataset.root=x dataset.ignore_label=0", "1..255"),
        ("dataset.ignore_label=256", "at least 0 and at most 255"),
        ("dataset.label_divisor=1", "dataset.label_divisor=1 must be a whole number, at least 2"),
        ("evaluation.scales=[]", "evaluation.scales=.. must be"),
        ("mode=browse browse.count=0", "browse.count=0 must be"),
        ("mode=demo demo.opacity=2", "demo.opacity=2 must be a number, at least 0 and at most 1"),
        ("mode=doctor doctor.sample=0", "doctor.sample=0 must be"),
        ("mode=benchmark benchmark.image_size=[16,64]", "benchmark.image_size="),
        ("mode=benchmark benchmark.postprocess=slow", "choose fast, reference"),
    ],
)
def test_settings_out_of_range_are_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        compose(override.split())


EXPERIMENT = "# @package _global_\ndefaults: [toy_quickstart, _self_]\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("optimiser: {lr: 1e-2}", r"Unknown key 'optimiser' \(experiment=mine\).*: optimizer"),
        ("dataset: {crop_sizes: [64, 64]}", "'dataset.crop_sizes'.*mean: dataset.crop_size"),
        ("train: {batchsize: 2}", "'train.batchsize'.*mean: train.batch_size"),
        ("backbone: {wdith: 8}", "'backbone.wdith'.*mean: backbone.width"),
        ("schedule: {warmup: 5}", "'schedule.warmup'.*mean: schedule.warmup_"),
        ("task: {model: {nms: 5}}", "'task.model.nms'"),
        ("recipe_record: {iteration: 5}", "'recipe_record.iteration'.*recipe_record.iterations"),
        ("sweep: {seed: [1]}", "'sweep.seed'.*sweep.seeds"),
        ("dataset: {crop_size: 64}", r"dataset.crop_size=64 \(experiment=mine\): expected a list"),
        ("train: {batch_size: many}", "train.batch_size=many .*: expected a whole number"),
        ("train: {clip_norm: big}", "train.clip_norm=big .*: expected a number or null"),
        ("decoder: {panoptic: 3}", "decoder.panoptic=3 .*: expected a group of keys"),
        ("optimizer: {lr: fast}", "optimizer.lr=fast .*: expected a number"),
    ],
)
def test_experiments_are_checked_like_the_command_line(option, line, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose([option("experiment", EXPERIMENT + line + "\n")])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "lines",
    [
        "size: 64\ndataset: {crop_size: ['${size}', '${size}']}",  # an interpolation reads it
        "mine: {size: 64}\ndataset: {min_sizes: ['${mine.size}']}",
        "optimizer: {optimizer: {amsgrad: true}}",  # the function that is called takes it
        "logger: {mine: {_target_: panoptic_dl.loggers.csv.CsvLogger}}",
        "published: {PQ: 50.0}",
        "dataset: {root: {_target_: panoptic_dl.datasets.toy.cityscapes.toy_cityscapes}}",
        "train: {iterations: '${recipe_record.batch_size}', clip_norm: 1, images_per_gpu: null}",
    ],
)
def test_experiments_may_add_what_something_reads(option, lines):
    compose([option("experiment", EXPERIMENT + lines + "\n")])


@pytest.mark.parametrize(
    ("group", "text", "key"),
    [
        ("recipe", "# @package _global_\ndefaults: [toy_coco_panoptic, _self_]\nsead: 1\n", "sead"),
        ("train", "defaults: [default, _self_]\nbatchsize: 2\n", "train.batchsize"),
        ("dataset", "defaults: [toy_coco, _self_]\ncrop_sizes: [64, 64]\n", "dataset.crop_sizes"),
    ],
)
def test_options_derived_from_others_are_checked(option, group, text, key):
    with pytest.raises(ConfigError, match=f"Unknown key '{key}' \\({group}=mine\\). Did you mean"):
        compose(["recipe=toy_coco_panoptic", option(group, text)])


def test_an_option_of_a_group_may_define_its_keys(option):
    text = "_target_: torch.optim.lr_scheduler.CosineAnnealingLR\n_partial_: true\nT_max: 5\n"
    for dataset in ("toy_cityscapes", "toy_coco"):
        config = compose([f"dataset={dataset}", option("schedule", text)])
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        assert build(config.schedule)(optimizer).T_max == 5
    text = "# @package _global_\nschedule: {warmup_iters: 5}\n"
    with pytest.raises(ConfigError, match=r"'schedule.warmup_iters' \(experiment=mine\)"):
        compose(["schedule=mine", option("experiment", text)])


@pytest.mark.parametrize(
    ("override", "near"),
    [
        ("+train.foo=3", ""),
        ("+dataset.foo=3", ""),
        ("+dataset.crop_sizes=[64,64]", "Did you mean: dataset.crop_size"),
        ("++train.batchsize=3", "Did you mean: train.batch_size"),
        ("+foo=3", ""),
        ("+backbone.foo=3", ""),
    ],
)
def test_keys_that_nothing_reads_cannot_be_appended(override, near):
    key = override.lstrip("+").partition("=")[0]
    for mode in (RunMode.RUN, RunMode.MULTIRUN):
        with pytest.raises(ConfigError, match=f"Unknown key '{key}'.*{near}"):
            loader().load_configuration("config", [override], mode)


def test_a_launcher_that_is_not_installed_names_its_extra(monkeypatch):
    from hydra.core.config_store import ConfigStore

    compose()  # Hydra has found its plug-ins
    monkeypatch.setitem(ConfigStore.instance().repo["hydra"], "launcher", {})
    with pytest.raises(ConfigError, match=r"pip install 'panoptic-dl\[launchers\]'"):
        compose(["hydra/launcher=slurm"])


def test_keys_that_something_reads_can_be_appended():
    config = compose(["+optimizer.optimizer.amsgrad=true", "+n=64", "dataset.min_sizes=['${n}']"])
    assert config.optimizer.optimizer.amsgrad is True
    assert config.dataset.min_sizes == [64]
    assert "momentum" not in compose(["optimizer=sgd", "~optimizer.optimizer.momentum"]).optimizer


PLAIN = """from detectron2.config import LazyCall as L
from own_backbone import Plain
from panoptic_dl.config import allow
allow("own_backbone")
backbone = L(Plain)(width=8)
_reads = dict(in_features=("a", "b"), aspp_dilations=(1, 2, 3))
decoder = dict(panoptic=dict(project_channels=(8,), **_reads),
               semantic=dict(project_channels=(8,), **_reads))
pixels = dict(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
"""
MODULE = """from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn
class Plain(Backbone):
    def __init__(self, width, depth=1):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, 16, 4, 4)
        self.width = width
    def output_shape(self):
        a, b = ShapeSpec(channels=self.width, stride=4), ShapeSpec(channels=16, stride=16)
        return {"a": a, "b": b}
    def forward(self, x):
        a = self.a(x)
        return {"a": a, "b": self.b(a)}
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder outside of the checkout with a backbone and an experiment."""
    conf = tmp_path / "project" / "conf"
    for name, text in {
        "backbone/plain.py": PLAIN,
        "experiment/mine.yaml": "# @package _global_\n"
        "defaults: [override /backbone: plain, override /dataset: toy_coco]\n"
        "dataset: {crop_size: [64, 64]}\n",
    }.items():
        (conf / name).parent.mkdir(parents=True, exist_ok=True)
        (conf / name).write_text(text)
    (tmp_path / "project" / "own_backbone.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "project"))
    monkeypatch.setattr(builder, "ALLOWED", list(builder.ALLOWED))
    yield conf
    sys.modules.pop("own_backbone", None)
    lazy._trees.cache_clear()


WAYS = ["config_dirs", "one", "packages", "searchpath", "relative", "package"]


@pytest.mark.parametrize("way", WAYS)
def test_options_may_lie_outside_of_the_checkout(own, way, monkeypatch):
    monkeypatch.chdir(own.parent)
    (own / "__init__.py").touch()
    places = {"searchpath": f"file://{own}", "relative": "conf", "package": "pkg://conf"}
    words = [f"hydra.searchpath=[{places[way]}]"] if way in places else []
    dirs = {"config_dirs": [own], "one": "conf", "packages": ["pkg://conf"]}.get(way, [])
    config = compose([*words, "experiment=mine"], dirs)
    assert config.name == "toy_coco_panoptic_plain_conv"
    assert type(build(config.task.model.backbone)).__name__ == "Plain"
    for typo, meant in (
        ("backbone=plan", "no backbone=plan. Did you mean: plain"),
        ("experiment=mime", "no experiment=mime. Did you mean: mine"),
        ("backbone.widht=4", "Did you mean: backbone.width"),
        ("backbone.dpeth=4", r"Did you mean: \+backbone.depth"),
    ):
        with pytest.raises(ConfigError, match=meant):
            compose([*words, "backbone=plain", typo], dirs)


def test_a_folder_of_options_that_is_missing_is_named_with_the_near_one(own):
    near = own.parent / "confs"
    for overrides, dirs in (([f"hydra.searchpath=[{near}]"], []), ([], [near])):
        with pytest.raises(ConfigError, match=r"no folder .*confs; in .* there is conf"):
            compose(overrides, dirs)
    with pytest.raises(ValueError, match="config_dirs=s3://conf is a URL"):
        compose([], ["s3://conf"])
    with pytest.raises(ConfigError, match="config_dirs: there is no pkg://no_package"):
        compose([], "pkg://no_package.conf")


def test_an_option_of_ones_own_does_not_hide_behind_one_of_the_checkout(own):
    shutil.copy(own / "backbone" / "plain.py", own / "backbone" / "hrnet48.py")
    with pytest.raises(ConfigError, match=r"backbone/hrnet48 is in .* and in .*rename your own"):
        compose(["backbone=hrnet48"], [own])


def test_a_module_that_is_not_found_names_the_cure(own):
    (own.parent / "own_backbone.py").unlink()
    with pytest.raises(ConfigError, match=r"plain.py: ModuleNotFoundError.*PYTHONPATH=FOLDER"):
        compose(["backbone=plain"], [own])


def saved(own, folder):
    (folder / ".hydra").mkdir(parents=True)
    config = compose(["experiment=mine", "backbone.width=4", "dataset.nms_kernel=5"], [own])
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    return folder


def test_a_run_is_opened_with_the_lazy_files_of_the_user(own, tmp_path):
    run = saved(own, tmp_path / "run")
    builder.ALLOWED.remove("own_backbone")
    lazy._trees.cache_clear()
    config = open_run(run, [own])
    assert build(config.task.model.backbone).width == 4


def test_an_option_that_changes_another_has_a_name_of_its_own(own, tmp_path):
    """Its runs are neither named after nor compared with those of the option that it changes."""
    text = "# @package _global_\ndefaults: [plain, _self_]\nbackbone: {width: 16}\n"
    (own / "backbone" / "wide.yaml").write_text(text)
    config = compose(["experiment=mine", "backbone=wide"], [own])
    assert config.name == "toy_coco_panoptic_wide_conv"
    (tmp_path / "run" / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, tmp_path / "run" / ".hydra" / "config.yaml")
    builder.ALLOWED.remove("own_backbone")
    lazy._trees.cache_clear()
    assert build(open_run(tmp_path / "run", [own]).task.model.backbone).width == 16


def test_a_run_allows_nothing_by_itself(own, tmp_path):
    run = saved(own, tmp_path / "run")
    builder.ALLOWED.remove("own_backbone")
    with pytest.raises(ValueError, match=r"has backbone=plain, which is no option.*--config-dir"):
        open_run(run)
    assert "own_backbone" not in builder.ALLOWED
    shutil.move(own, run / "conf")  # a stranger's, in the very folder
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    for name in (f"../{run}/conf/backbone/plain", str(run / "conf" / "backbone" / "plain")):
        config.choice.backbone = name
        OmegaConf.save(config, run / ".hydra" / "config.yaml")
        with pytest.raises(ValueError, match="is no option in"):
            open_run(run)
    assert "own_backbone" not in builder.ALLOWED


@pytest.mark.parametrize("mode", ["demo", "eval", "analyze"])
def test_modes_take_the_parts_of_the_run_that_weights_names(own, tmp_path, mode):
    run = saved(own, tmp_path / "run")
    words = [f"mode={mode}", f"weights={run}", "backbone.width=6"]
    config = compose(words, [own])
    assert dict(config.choice) == dict(compose(["experiment=mine"], [own]).choice)
    assert config.dataset.nms_kernel == 5
    model = config.mode.model
    assert (model._later_ if mode == "demo" else model).backbone.width == 6
    config = loader([own]).load_configuration("config", words, RunMode.RUN)
    assert OmegaConf.to_container(config.hydra.overrides.task) == words
    assert config.hydra.runtime.choices.backbone == "plain"


def test_evaluation_takes_the_parts_that_are_chosen(own, tmp_path):
    run = saved(own, tmp_path / "run")
    config = compose(["mode=eval", f"weights={run}", "backbone=hrnet_tiny"], [own])
    assert config.choice.backbone == "hrnet_tiny"
    assert config.dataset.nms_kernel != 5


def test_a_text_from_the_environment_names_how_to_decode_it(monkeypatch):
    monkeypatch.setenv("LR", "0.002")
    with pytest.raises(ConfigError, match=r"'0.002' is a text.*oc.decode") as caught:
        compose(["optimizer.lr=${oc.env:LR}"])
    advised = str(caught.value).split("'")[3].replace("NAME", "LR")
    assert compose([advised]).optimizer.lr == 0.002


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["dataset.crop_size=[64,64"], "are all brackets and quotes closed"),
        (["train.batch_size=2,3"], "for a sweep: python run.py -m"),
        (["foo"], "foo is no key=value"),
        (["demo.opacity=1"], "The group demo comes with mode=demo"),
        (["hydra.launcher.foo=1"], "`--cfg hydra` prints all keys"),
        (["+backbone=hrnet48"], "leave out the +"),
        (["~backbone"], "backbone=NAME chooses another"),
        (["~trian"], "Did you mean: train"),
        (["logger=[csv,tensorboad]"], "Did you mean: tensorboard?"),
        (["hydra/launcher=submitit_slrm"], "Did you mean: submitit_slurm"),
        (["hydra/launcher=null"], "hydra/launcher=null: a group needs the name of an option"),
        (["backbone=1"], "backbone=1: a group needs the name of an option"),
        (["seed=choice(1,2"], "are all brackets and quotes closed"),
    ],
)
def test_mistakes_are_one_line_of_ours(overrides, message):
    with pytest.raises(SystemExit, match=r"^error: ") as caught, one_line_errors():
        compose(overrides)
    text = str(caught.value)
    assert message in text
    assert "\n" not in text
    assert "append to your" not in text
    assert "hydra.cc" not in text


def test_words_of_the_shell_are_understood(monkeypatch):
    words = ["weights=~/a b", "weights=~/a.pth", "input=[~/a,~b/c]", "run_dir='~/x'", "~seed"]
    parsed = _arguments().parse_args(words).overrides
    assert parsed == ["weights='~/a b'", "weights='~/a.pth'", "input=['~/a','~b/c']", *words[3:]]
    assert compose([parsed[1]]).mode.weights == "~/a.pth"
    with pytest.raises(SystemExit, match=r"^error: .*--cofnig-dir.* Did you mean: --config-dir"):
        _arguments().parse_args(["--cofnig-dir=x"])


def test_experiments_are_swept_together_with_a_key_that_only_they_have():
    words = ["experiment=toy_quickstart,coco_overfit", "dataset.root.num_train=4"]
    config = loader().load_configuration("config", words, RunMode.MULTIRUN)
    assert OmegaConf.to_container(config.hydra.overrides.task) == words
    with pytest.raises(ConfigError, match=r"Unknown key 'dataset.root.num_trein'"):
        loader().load_configuration(
            "config", [words[0], "dataset.root.num_trein=4"], RunMode.MULTIRUN
        )


def test_augmentations_compose_as_a_list():
    def mapper(*words):
        tree = OmegaConf.to_container(compose(words), resolve=True)
        return tree["task"]["train_loader"]["mapper"]

    names = ("resize", "photometric", "copy_paste")
    assert [mapper()[name] for name in names] == [None, None, None]
    both = mapper("augmentation=[copy_paste,large_scale_jitter]", "augmentation.resize.max_scale=1")
    assert [bool(both[name]) for name in names] == [True, False, True]
    assert (both["resize"]["max_scale"], both["resize"]["target_width"]) == (1, 1024)
    made = build(mapper("augmentation=[photometric,large_scale_jitter]", "task=semantic"))
    kinds = [type(each).__name__ for each in made.augment.augmentations]
    assert kinds[0] == "ResizeScale"
    assert kinds[3:] == ["RandomBrightness", "RandomContrast", "RandomSaturation"]

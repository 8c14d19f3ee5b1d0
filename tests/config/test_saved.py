"""A run's config is found again by its folder, and used by mode=demo as it is."""

import pytest
from omegaconf import OmegaConf

from panoptic_dl.config import build, compose
from panoptic_dl.config.saved import saved_config

pytestmark = pytest.mark.thorough

ROW = [
    *("backbone=hrnet_tiny", "head=dsconv", "dataset=toy_coco", "head.aspp_channels=16"),
    "dataset.root.root=/nowhere/at/all",
]


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(compose(ROW), folder / ".hydra" / "config.yaml")
    (folder / "model_final.pth").touch()
    return folder


def demo_config(*overrides):
    return compose(["mode=demo", *overrides])


def test_the_parts_of_the_run_are_taken(run):
    for weights in (run, run / "model_final.pth"):
        config = demo_config(f"weights={weights}", "input=x")
        assert dict(config.choice) == dict(compose(ROW).choice)
        assert config.mode.model._later_ == compose(ROW).task.model
        assert len(build(config.mode.classes)()) == 133
        assert config.mode.row == "toy_coco_panoptic_hrnet_tiny_dsconv"
        assert config.input == "x"


def test_leaves_hold_for_the_parts_of_the_run(run):
    config = demo_config(f"weights={run}", "dataset.center_threshold=0.5", "pixels.mean=[1,2,3]")
    assert config.mode.model._later_.center_threshold == 0.5
    assert list(config.mode.model._later_.pixel_mean) == [1, 2, 3]
    assert config.dataset.nms_kernel == 17  # of toy_coco


def test_what_the_parts_of_the_run_take_from_elsewhere_comes_with_them(run):
    chosen = ["loss=[dice,class_weights]", "class_weights={cat: 3}", "augmentation=copy_paste"]
    OmegaConf.save(compose([*ROW, *chosen]), run / ".hydra" / "config.yaml")
    config = demo_config(f"weights={run}", "input=x")
    OmegaConf.resolve(config)
    weights = build(config.task.model.sem_seg_head.class_weights)
    assert (len(weights), sum(weights)) == (133, 132 + 3)
    assert config.task.train_loader.mapper.copy_paste.share == 0.5


def test_other_weights_leave_the_config_as_it_is(tmp_path):
    (tmp_path / "model.pth").touch()
    for weights in (tmp_path / "model.pth", tmp_path / "none.pth", "null"):
        config = demo_config(f"weights={weights}")
        assert config.choice.dataset == "cityscapes"


def test_parts_that_disagree_are_refused_by_name(run):
    with pytest.raises(ValueError, match="has head=dsconv, not head=conv: leave head= out"):
        demo_config(f"weights={run}", "head=conv")
    with pytest.raises(ValueError, match="leave experiment= out"):
        demo_config(f"weights={run}", "experiment=toy_quickstart")
    assert demo_config(f"weights={run}", "head=dsconv", "dataset=toy_coco").choice.head == "dsconv"
    with pytest.raises(ValueError, match="none added or removed"):
        demo_config(f"weights={run}", "~dataset.nms_kernel")


def test_damage_is_one_error_that_names_the_file(run, tmp_path):
    file = run / ".hydra" / "config.yaml"
    whole = file.read_text()
    for text in ("", "[]", "a: b", "a: [", whole[: len(whole) // 3], "choice: 1\n" + "x: 2\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match=r"config\.yaml"):
            saved_config(run)
    with pytest.raises(ValueError, match="is no run folder of ours"):
        saved_config(tmp_path)


def test_runs_from_before_classes_had_names_say_what_is_missing(run):
    config = OmegaConf.load(run / ".hydra" / "config.yaml")
    del config.dataset["classes"]
    OmegaConf.save(config, run / ".hydra" / "config.yaml")
    with pytest.raises(ValueError, match=r"put a classes\.json into"):
        saved_config(run)


def test_reading_a_config_runs_nothing(run):
    file = run / ".hydra" / "config.yaml"
    file.write_text(file.read_text() + "evil: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="is damaged"):
        saved_config(run)

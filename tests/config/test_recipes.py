"""Every value of the published recipes, row by row, against what a row's experiment resolves to.

tests/recipes/*.yaml are the reference recipes, fully resolved, with Detectron2's old-style keys.
"""

from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from panoptic_dl.config import compose

RECIPES = sorted(p for p in (Path(__file__).parents[1] / "recipes").glob("*_*.yaml"))
PUBLISHED = yaml.safe_load((Path(__file__).parents[1] / "recipes" / "published.yaml").read_text())

# Keys of the recipes that say nothing about these models, or where we differ on purpose.
UNUSED = {
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "drops images without boxes; records here have none",
    "DATALOADER.REPEAT_SQRT": "of another sampler",
    "DATALOADER.REPEAT_THRESHOLD": "of another sampler",
    "INPUT.MASK_FORMAT": "of instance annotations",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "compared as the augmentation's sample_style",
    "MODEL.BACKBONE.FREEZE_AT": "0: nothing is frozen",
    "MODEL.BACKBONE.NAME": "the class is compared instead",
    "MODEL.PANOPTIC_DEEPLAB.BENCHMARK_NETWORK_SPEED": "a mode, not a recipe",
    "MODEL.RESNETS.*": "of ResNets; depth (HRNet's width), norm and features are compared",
    "MODEL.WEIGHTS": "given on the command line: weights=FILE",
    "SEED": "-1, a random one; here 0, so that runs repeat (seed=null is random)",
    "SOLVER.AMP.ENABLED": "compared as train.precision",
    "SOLVER.CLIP_GRADIENTS.*": "not enabled",
    "SOLVER.GAMMA": "of another schedule",
    "SOLVER.NUM_DECAYS": "of another schedule",
    "SOLVER.STEPS": "of another schedule",
    "SOLVER.BASE_LR_END": "of another schedule",
    "SOLVER.RESCALE_INTERVAL": "of another schedule",
    "SOLVER.REFERENCE_WORLD_SIZE": "0: no automatic scaling",
    "TEST.AUG.*": "not enabled: one scale, no flip",
}
OURS_AS_DETECTRON2 = {
    ("cityscapes_panoptic", "train"): "cityscapes_fine_panoptic_train",
    ("cityscapes_panoptic", "val"): "cityscapes_fine_panoptic_val",
    ("cityscapes_semantic", "train"): "cityscapes_fine_sem_seg_train",
    ("cityscapes_semantic", "val"): "cityscapes_fine_sem_seg_val",
    ("coco_panoptic", "train"): "coco_2017_train_panoptic",
    ("coco_panoptic", "val"): "coco_2017_val_panoptic",
}


def ours(row: str) -> dict[str, object]:
    """The value of each recipe key in the row's resolved config."""
    cfg = OmegaConf.to_container(compose([f"experiment={row}"]), resolve=True)
    task = row.split("_")[1]
    data, optimizer, schedule, train = (
        cfg[k] for k in ("dataset", "optimizer", "schedule", "train")
    )
    model, loader = cfg["task"]["model"], cfg["task"]["train_loader"]
    resize, crop, _flip = loader["mapper"]["augmentations"]
    head = model["sem_seg_head"]
    classes = {
        "HRNet": "d2_hrnet",
        "Xception65": "d2_xception_65",
        "deeplab_resnet": "build_resnet_deeplab_backbone",
    }
    values = {
        "DATALOADER.ASPECT_RATIO_GROUPING": loader["aspect_ratio_grouping"],
        "DATALOADER.NUM_WORKERS": train["num_workers"],
        "DATALOADER.SAMPLER_TRAIN": "TrainingSampler",  # tests/data holds the loader against it
        "DATASETS.TRAIN": [catalog_name(data["train"][task])],
        "DATASETS.TEST": [catalog_name(data["test"][task])],
        "INPUT.CROP.ENABLED": True,
        "INPUT.CROP.SIZE": crop["crop_size"],
        "INPUT.CROP.TYPE": crop["crop_type"],
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": data["single_category_max_area"],
        "INPUT.FORMAT": data["image_format"],
        "INPUT.MAX_SIZE_TRAIN": resize["max_size"],
        "INPUT.MIN_SIZE_TRAIN": resize["short_edge_length"],
        "INPUT.MIN_SIZE_TEST": data["min_size_test"],
        "INPUT.MAX_SIZE_TEST": data["max_size_test"],
        "INPUT.RANDOM_FLIP": {"RandomFlip": "horizontal"}[_flip["_target_"].rpartition(".")[2]],
        "MODEL.BACKBONE.NAME": classes[cfg["backbone"]["_target_"].rpartition(".")[2]],
        "MODEL.META_ARCHITECTURE": {
            "PanopticDeepLab": "PanopticDeepLab",
            "DeepLabV3Plus": "SemanticSegmentor",
        }[model["_target_"].rpartition(".")[2]],
        "MODEL.PIXEL_MEAN": model["pixel_mean"],
        "MODEL.PIXEL_STD": model["pixel_std"],
        "MODEL.RESNETS.NORM": cfg["backbone"]["norm"],
        "MODEL.RESNETS.OUT_FEATURES": head["in_features"],
        "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": head["aspp_channels"],
        "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": head["aspp_dilations"],
        "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": head["aspp_dropout"],
        "MODEL.SEM_SEG_HEAD.COMMON_STRIDE": head["common_stride"],
        "MODEL.SEM_SEG_HEAD.CONVS_DIM": head["decoder_dim"],
        "MODEL.SEM_SEG_HEAD.HEAD_CHANNELS": head.get("head_channels"),
        "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": head["ignore_value"],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": head["in_features"],
        "MODEL.SEM_SEG_HEAD.LOSS_TOP_K": head.get("loss_top_k"),
        "MODEL.SEM_SEG_HEAD.LOSS_TYPE": head["loss_type"],
        "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": head["loss_weight"],
        "MODEL.SEM_SEG_HEAD.NAME": {
            "semantic_branch": "PanopticDeepLabSemSegHead",
            "semantic_head": "DeepLabV3PlusHead",
        }[head["_target_"].rpartition(".")[2]],
        "MODEL.SEM_SEG_HEAD.NORM": head["norm"],
        "MODEL.SEM_SEG_HEAD.NUM_CLASSES": head["num_classes"],
        "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": head["project_channels"],
        "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": head["in_features"][:-1],
        "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": head["use_depthwise_separable_conv"],
        "SOLVER.BASE_LR": optimizer["lr"],
        "SOLVER.BIAS_LR_FACTOR": optimizer["bias_lr_factor"],
        "SOLVER.CHECKPOINT_PERIOD": cfg["checkpoint"]["period"],
        "SOLVER.IMS_PER_BATCH": train["batch_size"],
        "SOLVER.LR_SCHEDULER_NAME": schedule["_target_"].rpartition(".")[2],
        "SOLVER.MAX_ITER": schedule["max_iters"],
        "SOLVER.MOMENTUM": optimizer["optimizer"].get("momentum", 0.9),  # Adam: not used
        "SOLVER.NESTEROV": optimizer["optimizer"].get("nesterov", False),
        "SOLVER.OPTIMIZER": optimizer["optimizer"]["_target_"].rpartition(".")[2].upper(),
        "SOLVER.POLY_LR_CONSTANT_ENDING": schedule["constant_ending"],
        "SOLVER.POLY_LR_POWER": schedule["power"],
        "SOLVER.WARMUP_FACTOR": schedule["warmup_factor"],
        "SOLVER.WARMUP_ITERS": schedule["warmup_iters"],
        "SOLVER.WARMUP_METHOD": schedule["warmup_method"],
        "SOLVER.WEIGHT_DECAY": optimizer["weight_decay"],
        "SOLVER.WEIGHT_DECAY_BIAS": optimizer["weight_decay_bias"],
        "SOLVER.WEIGHT_DECAY_NORM": optimizer["weight_decay_norm"],
        "TEST.EVAL_PERIOD": train["eval_period"],
    }
    if row.split("_")[2] == "hrnet48":
        values["MODEL.RESNETS.DEPTH"] = cfg["backbone"]["width"]
    if "resnet" in row:
        values["MODEL.RESNETS.DEPTH"] = cfg["backbone"]["depth"]
        values["MODEL.RESNETS.RES5_MULTI_GRID"] = cfg["backbone"]["res5_multi_grid"]
        values["MODEL.BACKBONE.FREEZE_AT"] = cfg["backbone"]["freeze_at"]
    if task == "panoptic":
        mapper, branch = loader["mapper"], model["ins_embed_head"]
        values |= {
            "INPUT.GAUSSIAN_SIGMA": mapper["gaussian_sigma"],
            "INPUT.IGNORE_CROWD_IN_SEMANTIC": mapper["ignore_crowd_in_semantic"],
            "INPUT.IGNORE_STUFF_IN_OFFSET": mapper["ignore_stuff_in_offset"],
            "INPUT.SMALL_INSTANCE_AREA": mapper["small_instance_area"],
            "INPUT.SMALL_INSTANCE_WEIGHT": mapper["small_instance_weight"],
            "MODEL.INS_EMBED_HEAD.ASPP_CHANNELS": branch["aspp_channels"],
            "MODEL.INS_EMBED_HEAD.ASPP_DILATIONS": branch["aspp_dilations"],
            "MODEL.INS_EMBED_HEAD.ASPP_DROPOUT": branch["aspp_dropout"],
            "MODEL.INS_EMBED_HEAD.CENTER_LOSS_WEIGHT": branch["center_loss_weight"],
            "MODEL.INS_EMBED_HEAD.COMMON_STRIDE": branch["common_stride"],
            "MODEL.INS_EMBED_HEAD.CONVS_DIM": branch["decoder_dim"],
            "MODEL.INS_EMBED_HEAD.HEAD_CHANNELS": branch["head_channels"],
            "MODEL.INS_EMBED_HEAD.IN_FEATURES": branch["in_features"],
            "MODEL.INS_EMBED_HEAD.NAME": {"instance_branch": "PanopticDeepLabInsEmbedHead"}[
                branch["_target_"].rpartition(".")[2]
            ],
            "MODEL.INS_EMBED_HEAD.NORM": branch["norm"],
            "MODEL.INS_EMBED_HEAD.OFFSET_LOSS_WEIGHT": branch["offset_loss_weight"],
            "MODEL.INS_EMBED_HEAD.PROJECT_CHANNELS": branch["project_channels"],
            "MODEL.INS_EMBED_HEAD.PROJECT_FEATURES": branch["in_features"][:-1],
            "MODEL.PANOPTIC_DEEPLAB.CENTER_THRESHOLD": model["center_threshold"],
            "MODEL.PANOPTIC_DEEPLAB.NMS_KERNEL": model["nms_kernel"],
            "MODEL.PANOPTIC_DEEPLAB.PREDICT_INSTANCES": model["predict_instances"],
            # 0 is ours for "the backbone's own"
            "MODEL.PANOPTIC_DEEPLAB.SIZE_DIVISIBILITY": model["size_divisibility"] or -1,
            "MODEL.PANOPTIC_DEEPLAB.STUFF_AREA": model["stuff_area"],
            "MODEL.PANOPTIC_DEEPLAB.TOP_K_INSTANCE": model["top_k"],
            "MODEL.PANOPTIC_DEEPLAB.USE_DEPTHWISE_SEPARABLE_CONV": branch[
                "use_depthwise_separable_conv"
            ],
        }
    assert resize["sample_style"] == "choice"
    assert train["precision"] == "tf32"  # Detectron2 leaves PyTorch's default alone
    return values


def catalog_name(node: dict) -> str:
    function = node["_target_"].rpartition(".")[2]
    return node.get("prefix", "") + OURS_AS_DETECTRON2[function, node["split"]]


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def unused(key: str) -> bool:
    return any(key == k or (k.endswith(".*") and key.startswith(k[:-1])) for k in UNUSED)


@pytest.mark.parametrize("file", RECIPES, ids=lambda p: p.stem)
def test_every_value_of_the_recipe(file):
    recipe, values = dict(leaves(yaml.safe_load(file.read_text()))), ours(file.stem)
    differing = {
        key: (values.get(key, "MISSING"), wanted)
        for key, wanted in recipe.items()
        if (key in values or not unused(key)) and values.get(key, "MISSING") != wanted
        # A recipe may leave RESNETS.DEPTH at a ResNet's 50: Xception has no such number.
    }
    assert differing == {}


@pytest.mark.parametrize("file", RECIPES, ids=lambda p: p.stem)
def test_published_metrics_stand_in_the_experiment(file):
    cfg = compose([f"experiment={file.stem}"])
    metrics = {k: v for k, v in PUBLISHED[file.stem].items() if k not in ("output", "old_recipe")}
    assert dict(cfg.published) == metrics
    assert cfg.name == file.stem


def test_the_tables_have_twelve_rows():
    assert len(RECIPES) == 12
    assert {p.stem for p in RECIPES} == set(PUBLISHED)


def test_the_old_coco_recipe_differs_in_one_number():
    new = compose(["experiment=coco_panoptic_hrnet48_dsconv"])
    old = compose(["experiment=coco_panoptic_hrnet48_dsconv", "recipe=coco_panoptic_old"])
    assert (new.dataset.max_size, old.dataset.max_size) == (960, 640)
    old.dataset.max_size = 960
    assert new.dataset == old.dataset
    assert (new.train, new.optimizer, new.schedule) == (old.train, old.optimizer, old.schedule)

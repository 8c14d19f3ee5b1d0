"""Build the objects that a config describes."""

import contextlib
import inspect
import math
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import MissingMandatoryValue

from panoptic_dl.core.errors import PartError, call_text, make_part
from panoptic_dl.core.run_folder import RESOLVED

# Modules and packages whose public classes and functions a config may call, and single names of
# modules that hold others, too. A config is data that people exchange; it must not be able to run
# what it likes. Only Python code extends the list, through `allow`.
ALLOWED = [
    "panoptic_dl.core.classes.Classes",
    "panoptic_dl.core.classes.count_classes",
    "panoptic_dl.core.classes.thing_ids",
    "panoptic_dl.core.images.SemanticLabelReader",
    "panoptic_dl.data.cache",
    "panoptic_dl.data.loader",
    "panoptic_dl.data.mapper",
    "panoptic_dl.datasets.cityscapes",
    "panoptic_dl.datasets.coco",
    "panoptic_dl.datasets.custom",
    "panoptic_dl.datasets.importing.import_dataset",
    "panoptic_dl.datasets.toy.cityscapes",
    "panoptic_dl.datasets.toy.coco",
    "panoptic_dl.demo.demo.demo",
    "panoptic_dl.doctor.doctor.run_doctor",
    "panoptic_dl.evaluation",
    "panoptic_dl.loggers",
    "panoptic_dl.models",
    "panoptic_dl.modes",
    "panoptic_dl.report.benchmark",
    "panoptic_dl.report.search",
    "panoptic_dl.train.train",
    "detectron2.data.transforms",
    "detectron2.evaluation",
    "detectron2.layers",
    "detectron2.modeling",
    "detectron2.projects",
    "detectron2.solver",
    "fvcore.common.param_scheduler",
    "torch.nn",
    "torch.optim",
]

# Names in configs that were saved by earlier versions, and what they are called now.
MOVED = {
    "panoptic_dl.backbones": "panoptic_dl.models.backbones",
    "panoptic_dl.classes": "panoptic_dl.core.classes",
    "panoptic_dl.config.callbacks": "panoptic_dl.sweeps.callbacks",
    "panoptic_dl.data.benchmark_scenes": "panoptic_dl.modes.scene_maps",
    "panoptic_dl.data.catalog": "panoptic_dl.datasets",
    "panoptic_dl.data.catalog.own_data.own_classes": "panoptic_dl.datasets.custom.custom_classes",
    "panoptic_dl.data.catalog.own_data.own_dataset": "panoptic_dl.datasets.custom.custom_dataset",
    "panoptic_dl.data.decoded_cache": "panoptic_dl.data.cache",
    "panoptic_dl.data.reading": "panoptic_dl.core.images",
    "panoptic_dl.data.toy": "panoptic_dl.datasets.toy",
    "panoptic_dl.data.truth_maps": "panoptic_dl.data.mapper",
    "panoptic_dl.demo.mode": "panoptic_dl.demo.demo",
    "panoptic_dl.doctor.examination.examine": "panoptic_dl.doctor.doctor.run_doctor",
    "panoptic_dl.engine.analyze": "panoptic_dl.modes.analyze",
    "panoptic_dl.engine.benchmark": "panoptic_dl.modes.benchmark",
    "panoptic_dl.engine.browse": "panoptic_dl.modes.browse",
    "panoptic_dl.engine.evaluate": "panoptic_dl.modes.evaluate",
    "panoptic_dl.engine.evaluation": "panoptic_dl.modes.evaluate",
    "panoptic_dl.engine.optimizer": "panoptic_dl.train.train",
    "panoptic_dl.engine.train": "panoptic_dl.train.train",
    "panoptic_dl.evaluation.coco_instances.StreamingPanopticInstanceEvaluator": (
        "panoptic_dl.evaluation.coco_instances.StreamingCOCOInstanceEvaluator"
    ),
    "panoptic_dl.evaluation.official.OfficialPanopticInstanceEvaluator": (
        "panoptic_dl.evaluation.official.OfficialCOCOInstanceEvaluator"
    ),
}
for _name, _module, _class in (
    ("cityscapes_instance_ap", "cityscapes_instances", "CityscapesInstanceEvaluator"),
    ("cityscapes_semantic_iou", "cityscapes_semantic", "CityscapesSemanticEvaluator"),
    ("coco_instance_ap", "coco_instances", "COCOInstanceEvaluator"),
    ("panoptic_instance_ap", "coco_instances", "COCOInstanceEvaluator"),
    ("panoptic_quality", "panoptic", "PanopticEvaluator"),
    ("semantic_iou", "semantic", "SemanticEvaluator"),
):
    _official, _streaming = (f"panoptic_dl.evaluation.{each}" for each in ("official", "streaming"))
    MOVED[f"{_official}.{_name}"] = f"{_official}.Official{_class}"
    MOVED[f"{_streaming}.{_name}"] = f"panoptic_dl.evaluation.{_module}.Streaming{_class}"


COUNT = "panoptic_dl.data.loader.count_images"
LEAST_ITERATIONS = 2000  # of a length that the size of a dataset decides


class TargetError(ValueError):
    """A `_target_` that does not exist or that configs may not call."""


def allow(*packages: str) -> None:
    """Let configs call the classes and functions defined in `packages` (dotted names).

    Call it from Python, for instance in the lazy file of your backbone: `allow("my_models")`.
    """
    ALLOWED.extend(name for name in packages if name not in ALLOWED)


def build(node: Any, **runtime: Any) -> Any:
    """Call every `_target_` in `node`, innermost first, and return the result.

    `runtime` adds what a config cannot hold, such as a model's parameters, to the outermost call.
    A node marked `_partial_: true` becomes a function that waits for its missing arguments, and
    `{_later_: node}` one without arguments that builds `node` anew whenever it is called. Lists and
    dicts arrive in constructors as plain `list` and `dict`, never as OmegaConf containers.

    TargetError: a target is unknown or outside the allow-list (see `allow`). PartError: a value is
    missing, or a class or function of others refuses its arguments.
    """
    if isinstance(node, (DictConfig, ListConfig)):
        try:
            node = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        except MissingMandatoryValue as error:
            raise PartError(str(error).splitlines()[0]) from error
    return _build(node, runtime)


def _build(node: Any, runtime: dict[str, Any]) -> Any:
    if isinstance(node, (list, tuple)):
        return [_build(item, {}) for item in node]
    if not isinstance(node, dict):
        return node
    if "_later_" in node:
        if len(node) > 1:
            others = ", ".join(str(key) for key in node if key != "_later_")
            raise TargetError(f"_later_ is the only key of its node, without {others}")
        return partial(_build, node["_later_"], runtime)
    kwargs = {k: _build(v, {}) for k, v in node.items() if k not in ("_target_", "_partial_")}
    kwargs |= runtime
    if "_target_" not in node:
        return kwargs
    target, is_partial = find_target(node["_target_"]), node.get("_partial_")
    try:
        signature = inspect.signature(target)
        (signature.bind_partial if is_partial else signature.bind)(**kwargs)
    except TypeError as error:
        raise PartError(f"{call_text(target, kwargs)}: {error}") from error
    except ValueError:  # some built-in functions have no signature
        pass
    return partial(target, **kwargs) if is_partial else make_part(target, **kwargs)


def find_target(target: Any) -> Any:
    """The callable that a `_target_` names; a callable itself (from Python code) is returned as is.

    The name's package is checked before anything is imported, and the module that defines the
    object afterwards: `torch.nn.modules.module.os.system` starts well and is `os.system` all the
    same. Private names are refused.
    """
    if callable(target):
        return target
    name = current_name(target) if isinstance(target, str) else ""
    package, found = name.partition(".")[0], None
    if package in {entry.partition(".")[0] for entry in ALLOWED}:
        from detectron2.utils.registry import locate  # imports torch

        try:
            found = locate(name)
        except Exception as error:  # ImportError, and what the imported module raises
            stop = getattr(error, "value", None)
            if isinstance(stop, KeyboardInterrupt | SystemExit):  # a signal, wrapped by pydoc
                raise stop from None
            raise TargetError(f"_target_ {name} cannot be found: {error}") from error
    defined = f"{getattr(found, '__module__', None)}.{getattr(found, '__qualname__', '')}."
    is_private = any(part.startswith("_") for part in f"{name}.{defined}".split("."))
    is_allowed = any(defined.startswith(f"{entry}.") for entry in ALLOWED)
    if not callable(found) or is_private or not is_allowed:
        raise TargetError(
            f"_target_ {target} is not among the packages that a config may call "
            f"({', '.join(ALLOWED)}). If you trust it, say so in Python, for instance in your lazy "
            f'file: `from panoptic_dl.config import allow; allow("{package}")`'
        )
    return found


def current_name(target: str) -> str:
    """The present name of what a saved config calls `target`; see `MOVED`."""
    parts = target.split(".")
    for length in range(len(parts), 1, -1):
        moved = MOVED.get(".".join(parts[:length]))
        if moved is not None:
            return ".".join([moved, *parts[length:]])
    return target


def set_iterations(config: DictConfig, mode: str, folder: Path) -> list[str]:
    """Fill in the length of a training where epochs, or the size of the dataset, decide about it.

    A recipe with epochs and without iterations, as for custom datasets, gets its length, and a
    warm-up of at most a tenth of that, from the number of training images; a run that goes on keeps
    what it was begun with. `config` is changed, before it is resolved; modes other than train and
    doctor need no length. Returns the arithmetic, for the log.

    Raises ValueError: both epochs and iterations are given; DatasetError: the dataset cannot be
    read.
    """
    train, recipe = config.train, config.recipe_record
    epochs, given = train.epochs, not OmegaConf.is_interpolation(train, "iterations")
    if epochs is not None and given:
        raise ValueError(
            f"train.epochs={epochs:g} and train.iterations={train.iterations} say the same thing "
            "twice: leave one of them out (train.epochs=null)"
        )
    by_size = OmegaConf.is_missing(recipe, "iterations") and recipe.get("epochs") is not None
    if mode not in ("train", "doctor") or not (by_size or epochs is not None):
        return []
    try:
        images = build({"_target_": COUNT, "dataset": build(config.task.train_loader.dataset)})
    except ValueError:
        if mode == "train":
            raise
        images = 0  # the doctor says so
    if by_size:
        recipe.iterations = max(
            LEAST_ITERATIONS, math.ceil(recipe.epochs * images / recipe.batch_size)
        )
        recipe.warmup_iters = min(recipe.warmup_iters, recipe.iterations // 10)
        with contextlib.suppress(Exception):  # there is none, or it is damaged
            saved: Any = OmegaConf.load(folder / RESOLVED)
            recipe.iterations = saved.recipe_record.iterations
            recipe.warmup_iters = saved.recipe_record.warmup_iters
    if epochs is not None:
        train.iterations = max(1, math.ceil(epochs * images / train.batch_size))
    elif not given:
        train.iterations = math.ceil(recipe.iterations * recipe.batch_size / train.batch_size)
    if given or not images:
        return []
    name, epochs = ("train", epochs) if epochs is not None else ("recipe_record", recipe.epochs)
    least = f", and at least {LEAST_ITERATIONS:,}" if name == "recipe_record" else ""
    return [
        f"{name}.epochs={epochs:g}: {epochs:g} x {images:,} images / {train.batch_size}{least}: "
        f"{train.iterations:,} iterations"
    ]

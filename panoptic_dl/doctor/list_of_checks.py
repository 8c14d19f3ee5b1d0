"""Every check, in the order of the table. A new check is a line here and a function of its own."""

from functools import partial

from .checks import Check
from .data.annotations import look_at_annotations
from .data.categories import look_at_categories, look_at_crowds
from .data.files import checks_of
from .data.instances import look_at_instances
from .data.layout import look_at_layout
from .data.occurrences import look_at_occurrences
from .data.overlap import look_for_overlap
from .machine.cores import look_at_loader_processes
from .machine.device import look_at_device
from .machine.disk import look_at_disk
from .machine.packages import look_at_detectron2, look_at_packages
from .machine.shared_memory import look_at_shared_memory
from .row.classes import look_at_classes
from .row.composition import look_at_batch, look_at_recipe, look_at_settings
from .row.crop import look_at_crop
from .row.memory import look_at_memory
from .row.normalization import look_at_normalization
from .row.parts import look_at_evaluation, look_at_loader, look_at_model, look_at_optimizer
from .row.weights import look_at_weights
from .steps import make_evaluation_step, make_training_steps
from .together import Leader, together

SET_UP, ROW, STEPS = "set-up", "row", "steps"
SPLITS = ("train", "val")
# What a training step reads; where it is red, the step would say so again.
READ = ("layout", "images", "sizes", "labels", "label ids", "semantic labels")

ASK_PYTHON = "see the error in log.txt: a part of the row cannot be built as it is configured"
LOOK_AT_ROOT = (
    "dataset.root must be the folder that holds the dataset's folder (DETECTRON2_DATASETS)"
)
PREPARE = "mend the file that is named, or prepare the dataset again (README.md, Data)"


def all_checks(leader: Leader, *, steps: bool) -> list[Check]:
    """The checks; `steps` says whether training and evaluation are tried."""
    found = [*set_up_checks(), *data_checks(), *row_checks()]
    return [*found, *step_checks(leader)] if steps else found


def set_up_checks() -> list[Check]:
    """The machine, before anything is built."""
    return [
        Check(SET_UP, "packages", look_at_packages, cure="make setup"),
        Check(SET_UP, "detectron2", look_at_detectron2, cure="make setup"),
        Check(SET_UP, "device", look_at_device, cure="launch.num_gpus=0 runs on the CPU"),
        Check(SET_UP, "settings", look_at_settings, cure="the values of the message"),
        Check(SET_UP, "loader processes", look_at_loader_processes),
    ]


def data_checks() -> list[Check]:
    """Both splits: the catalog, the JSON file, every image and label."""
    checks = []
    for split in SPLITS:
        group = f"{split} data"
        layout = (f"{group}: layout",)
        checks += [
            Check(group, "layout", partial(look_at_layout, split), cure=LOOK_AT_ROOT),
            Check(group, "annotations", partial(look_at_annotations, split), layout, PREPARE),
            Check(group, "categories", partial(look_at_categories, split), layout, PREPARE),
            Check(group, "crowds", partial(look_at_crowds, split), layout, PREPARE),
            *checks_of(split),
            Check(group, "classes", partial(look_at_occurrences, split), layout, PREPARE),
        ]
    layouts = tuple(f"{split} data: layout" for split in SPLITS)
    instances = partial(look_at_instances, "val")
    return [
        *checks,
        Check("val data", "instances file", instances, layouts[1:], PREPARE),
        Check("both splits", "overlap", look_for_overlap, layouts, PREPARE),
    ]


def row_checks() -> list[Check]:
    """Parts, numbers and weights."""
    layouts = tuple(f"{split} data: layout" for split in SPLITS)
    settings, device = f"{SET_UP}: settings", f"{SET_UP}: device"
    model, optimizer = f"{ROW}: model", f"{ROW}: optimizer"
    batch = f"{ROW}: batch"
    shared = (settings, device)
    return [
        Check(ROW, "classes", look_at_classes, cure=ASK_PYTHON),
        Check(ROW, "model", look_at_model, cure=ASK_PYTHON),
        Check(ROW, "weights", look_at_weights, (model,), "weights= of the same row, or none"),
        Check(ROW, "optimizer", look_at_optimizer, (model, settings), ASK_PYTHON),
        Check(ROW, "batch", look_at_batch, shared, "train.batch_size of the message"),
        Check(ROW, "recipe", look_at_recipe, (batch, optimizer), ASK_PYTHON),
        Check(ROW, "normalisation", look_at_normalization, (batch, model), ASK_PYTHON),
        Check(ROW, "crop", look_at_crop, (model,), ASK_PYTHON),
        Check(ROW, "shared memory", look_at_shared_memory, (batch,), "train.num_workers=0"),
        Check(ROW, "memory", look_at_memory, (batch, optimizer), "train.images_per_gpu=1"),
        Check(ROW, "disk", look_at_disk, (settings, optimizer), "another run_dir"),
        Check(ROW, "training loader", look_at_loader, (batch, layouts[0]), ASK_PYTHON),
        Check(ROW, "evaluation", look_at_evaluation, layouts[1:], ASK_PYTHON),
    ]


def step_checks(leader: Leader) -> list[Check]:
    """A run in small."""
    rows = ("classes", "weights", "memory", "shared memory", "disk", "training loader")
    training = tuple(f"{ROW}: {name}" for name in (*rows, "normalisation", "evaluation"))
    reads = {split: tuple(f"{split} data: {name}" for name in READ) for split in SPLITS}
    trained = f"{STEPS}: training"
    return [
        Check(
            STEPS,
            "training",
            together(leader, "training", make_training_steps),
            (*training, *reads["train"]),
            "see the error in log.txt",
        ),
        Check(
            STEPS,
            "evaluation",
            together(leader, "evaluation", make_evaluation_step),
            (trained, *reads["val"]),
            "see the error in log.txt",
        ),
    ]

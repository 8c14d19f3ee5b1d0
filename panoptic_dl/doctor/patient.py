"""What the doctor looks at: a row's parts, which are built when a check asks, and its numbers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from detectron2.utils import comm

from panoptic_dl.data.catalog.own_data import FORMATS

from .data.split import Split


@dataclass(frozen=True)
class DoctorSettings:
    """`conf/doctor/default.yaml`."""

    sample: int | None  # images of each split that are opened; None: all
    workers: int | None  # processes that open them; None: one a core
    steps: bool  # two training steps and one evaluation step

    def __post_init__(self) -> None:
        for name in ("sample", "workers"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(
                    f"doctor.{name}={value} must be a whole number, at least 1, or null"
                )


@dataclass
class Patient:
    """A row as composed, and what checks have found out about it.

    Attributes:
        device: `cuda` or `cpu`.
        parts: functions that build the row's parts, by name: see conf/mode/doctor.yaml.
        choice: names of the chosen parts: "backbone", "head", "dataset", "task".
        sizes: "crop_size", "image_size" [H, W], "min_size_test", "size_divisibility" in pixels.
        train, checkpoint, recipe, launch: those groups of the config.
        launch_refused: why the processes that `launch` asks for could not start.
        weights: file or run folder to start from.
        pretrained: the file that the recipe starts from, for whoever gives no weights.
        splits: "train" and "val", as far as they could be registered.
        tell_others: called now and then by checks that take long, for processes that wait.
    """

    device: str
    parts: Mapping[str, Callable[[], Any]]
    choice: Mapping[str, str]
    sizes: Mapping[str, Any]
    train: dict[str, Any]
    checkpoint: dict[str, Any]
    recipe: Mapping[str, Any]
    launch: Mapping[str, Any]
    settings: DoctorSettings
    run_dir: str
    ignore_label: int = 255
    image_format: str = "RGB"
    max_bad_samples: int = 0
    launch_refused: str | None = None
    weights: str | None = None
    pretrained: Mapping[str, Any] | None = None
    splits: dict[str, Split] = field(default_factory=dict)
    tell_others: Callable[[], None] = lambda: None
    _built: dict[str, Any] = field(default_factory=dict)

    def part(self, name: str) -> Any:
        """The part of that name, built when it is first asked for; raises what building raises."""
        if name not in self._built:
            self._built[name] = self.parts[name]()
        return self._built[name]

    @property
    def row(self) -> str:
        """The name of the row: dataset_task_backbone_head."""
        return "_".join(self.choice[group] for group in ("dataset", "task", "backbone", "head"))

    @property
    def has_own_data(self) -> bool:
        """Whether the dataset is somebody's own: sizes, areas and crowds need not be listed."""
        return self.choice["dataset"] in FORMATS

    @property
    def num_processes(self) -> int:
        """That train together."""
        return comm.get_world_size()

    @property
    def root(self) -> str:
        """The folder that holds the dataset's folder, as far as it can be told."""
        try:
            return str(self.part("root"))
        except Exception:
            return "ROOT"

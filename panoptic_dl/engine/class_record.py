"""`classes.json` of a run: what its model predicts, for use where the dataset is not."""

import logging
from pathlib import Path

from panoptic_dl.classes import Classes, load_classes
from panoptic_dl.whole_files import write_text

logger = logging.getLogger(__name__)

FILE = "classes.json"


def record_classes(classes: Classes, run_dir: Path) -> None:
    """Write the file, or see that a run that goes on has the classes it was started with.

    Raises:
        ValueError: it has others, or its file is damaged.
        OSError: the file cannot be written.
    """
    file = run_dir / FILE
    if file.is_file():
        differs = classes.difference(load_classes(file))
        if differs:
            raise ValueError(
                f"the dataset has other classes than this run was started with ({file}): {differs}"
                ". Resume with the categories as they were, or start anew in another run_dir"
            )
        return
    try:
        write_text(file, classes.to_json())
    except OSError as error:
        raise OSError(f"cannot write {file}: {error.strerror or error}") from error


def require_classes(classes: Classes, weights: str) -> None:
    """See that weights of a run predict the classes of the dataset that they are measured on.

    Args:
        weights: a file or a run folder; without the run's `classes.json` nothing is known.

    Raises:
        ValueError: class ids mean other classes, or `classes.json` is damaged.
    """
    place = Path(weights).expanduser()
    file = (place if place.is_dir() else place.parent) / FILE
    if not file.is_file():
        return
    differs = classes.difference(load_classes(file))
    if differs:
        raise ValueError(
            f"the dataset has other classes than the model of weights={weights}: {differs}. {file} "
            "lists the model's; evaluate it on data with the same categories, ids in the same order"
        )

"""A run folder of ours in the place of a weights file: which checkpoint is meant."""

import logging
from pathlib import Path

from .errors import WeightsError
from .printable import printable

logger = logging.getLogger(__name__)

FINAL = "model_final.pth"
AVERAGE = "model_ema.pth"
NEWEST = "last_checkpoint"  # a text file with the newest checkpoint's name
MANIFEST = "checkpoints.json"  # what is known of each checkpoint


def find_weights(path: str | Path) -> Path:
    """The file to read: `path` itself, or the checkpoint of the run folder that `path` is.

    Of a folder: `model_final.pth`, else what `last_checkpoint` names. Which one is logged.

    Raises:
        WeightsError: there is no such file or folder, or the folder has neither; the message lists
            the checkpoints that are there.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(f"weights={path}: there is no such file or folder")
    chosen = find_checkpoint(path)
    logger.info("weights=%s is a run folder: taking %s", path, printable(chosen.name))
    return chosen


def find_checkpoint(folder: Path, name: str | None = None) -> Path:
    """A run folder's checkpoint: `name`, or else the final one, or else the newest.

    Raises:
        WeightsError: it is not there.
    """
    there = (
        ", ".join(sorted(printable(p.name) for p in folder.glob("*.pth"))) or "no .pth file at all"
    )
    if name is not None:
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsError(f"{folder} has no checkpoint {name}; it has {there}")
        return folder / name
    if (folder / FINAL).is_file():
        return folder / FINAL
    tag = folder / NEWEST
    newest = tag.read_text(errors="replace").strip() if tag.is_file() else ""
    # The tag is a name in the folder; anything else, such as ../x, is damage.
    if newest and Path(newest).name == newest and (folder / newest).is_file():
        return folder / newest
    raise WeightsError(
        f"weights={folder}: a run folder has {FINAL}, or {NEWEST} names its newest checkpoint; "
        f"here is {there}. Name one: weights={folder}/NAME.pth"
    )

"""mode=browse: pictures of training samples as the network gets them."""

import contextlib
import itertools
import logging
import os
import re
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.parallel import Progress
from panoptic_dl.launch.session import accept
from panoptic_dl.train.trainer import Loader
from panoptic_dl.visualize.sheets import file_stem
from panoptic_dl.visualize.training_sample import save_sample

logger = logging.getLogger(__name__)

OURS = re.compile(r"\d{4,}_.*\.png")


def browse(
    *,
    device: str,
    loader: Loader,
    classes: Classes,
    ignore_label: int,
    image_format: str,
    run_dir: str,
    count: int,
) -> dict[str, Any]:
    """Draw the first training samples, one picture each: `run_dir/browse/<number>_<name>.png`.

    Pictures that an earlier call left there are deleted.

    Args:
        loader: batches of one sample, without end, in the order of training.
        ignore_label: of pixels without a label.
        count: how many samples.

    Returns:
        `metrics` (the number of pictures) and `files`.

    Raises ValueError for several processes, or a label that is none of the classes.
    """
    if comm.get_world_size() > 1:
        raise ValueError("mode=browse draws in one process: drop launch.num_gpus and the like")
    accept()
    folder = Path(run_dir) / "browse"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.iterdir():
        if OURS.fullmatch(old.name):
            old.unlink()
    files = []
    with Progress("drawn", count) as progress, contextlib.closing(iter(loader)) as batches:  # type: ignore[type-var]
        samples = itertools.chain.from_iterable(batches)
        for number, sample in enumerate(itertools.islice(samples, count)):
            for bad, error in loader.take_bad_samples().items():
                logger.warning("%s stands in for %s: %s", sample["file_name"], bad, error)
            file = folder / f"{number:04d}_{file_stem(Path(sample['file_name']).stem)}.png"
            save_sample(sample, file, classes, ignore_label=ignore_label, image_format=image_format)
            files.append(str(file))
            progress.add(1)
    logger.info("Saved %d pictures in %s", len(files), os.path.relpath(folder))
    return {"metrics": {"pictures": len(files)}, "files": files}

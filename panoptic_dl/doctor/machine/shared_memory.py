"""/dev/shm, through which loader processes hand over their samples."""

import os
import shutil

from ..amounts import GIB, amount
from ..patient import Patient
from ..row.composition import images_per_pass
from ..verdicts import Verdict, fail, ok

FOLDER = "/dev/shm"
PREFETCHED = 2  # batches that each loader process keeps ready: PyTorch's default
# Bytes a pixel of a training sample: image 3, classes 8, and of the panoptic task weights 4,
# heatmap 4 and 4, offsets 8 and 4.
BYTES = {"panoptic": 35, "semantic": 11}


def look_at_shared_memory(patient: Patient) -> Verdict | None:
    """Room for the batches that wait; without it training dies of a bus error."""
    workers = patient.train["num_workers"]
    if not workers or not os.path.isdir(FOLDER):
        return None
    height, width = patient.sizes["crop_size"]
    bytes_a_pixel = BYTES.get(patient.choice["task"], max(BYTES.values()))
    images = images_per_pass(patient)
    needed = PREFETCHED * workers * patient.num_processes * images * height * width * bytes_a_pixel
    free = shutil.disk_usage(FOLDER).free
    found = f"{FOLDER} has {amount(free)} free, batches that wait take {amount(needed)}"
    if needed <= free:
        return ok(found)
    fitting = int(workers * free / needed)
    return fail(
        found,
        f"train.num_workers={fitting}, or in a container more of it: docker run --shm-size="
        f"{-(-needed // GIB)}g",
    )

"""CPU cores, and the processes that want them."""

import os

from ..patient import Patient
from ..verdicts import Verdict, ok, warn


def count_cores() -> int:
    """That this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def look_at_loader_processes(patient: Patient) -> Verdict:
    """Loader processes beyond the cores cost memory and bring nothing."""
    workers, cores = patient.train["num_workers"], count_cores()
    share = max(1, cores // patient.num_processes)
    found = f"{workers} loader processes for each of {patient.num_processes} training processes"
    if patient.num_processes == 1:
        found = f"{workers} loader processes"
    found += f", {cores} cores"
    if workers > share:
        return warn(found, f"train.num_workers={share}")
    return ok(found)

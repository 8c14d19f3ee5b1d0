"""What the network runs on."""

import torch

from panoptic_dl.engine.performance import Performance
from panoptic_dl.environment import describe_device

from ..patient import Patient
from ..verdicts import Verdict, fail, ok, warn


def look_at_device(patient: Patient) -> Verdict:
    """The device is there, as many as asked for, and has the precision of training."""
    if patient.launch_refused is not None:
        return fail(patient.launch_refused, "see launch.num_gpus in docs/long_runs.md")
    device = torch.device(patient.device)
    Performance(patient.train["precision"]).check(device)
    found = describe_device(patient.device)
    if patient.num_processes > 1:
        found = f"{patient.num_processes} processes, each on: {found}"
    if device.type == "cpu" and torch.version.cuda and not torch.cuda.is_available():
        found += "; no GPU"
    if device.type == "cpu" and torch.cuda.device_count() > 0:
        return warn(f"{found}; {torch.cuda.device_count()} GPUs are not used", "launch.num_gpus=1")
    return ok(found)

"""Whether a row's parts can be built."""

import warnings

from torch import nn

from panoptic_dl.engine.schedule import check_length

from ..patient import Patient
from ..verdicts import Verdict, ok


def look_at_model(patient: Patient) -> Verdict:
    """Backbone and heads can be built and fit together."""
    model: nn.Module = patient.part("model")
    count = sum(parameter.numel() for parameter in model.parameters())
    return ok(f"{type(model).__name__}, {count / 1e6:.1f} M parameters")


def look_at_optimizer(patient: Patient) -> Verdict:
    """Optimizer and schedule can be made for the model."""
    optimizer = patient.part("optimizer")(patient.part("model"))
    schedule = patient.part("schedule")(optimizer)
    check_length(schedule, patient.train["iterations"])
    rates = [group["initial_lr"] for group in optimizer.param_groups]
    return ok(
        f"{type(optimizer).__name__}, {len(rates)} groups, rate {max(rates):.3g}, "
        f"{type(schedule).__name__}"
    )


def look_at_loader(patient: Patient) -> Verdict:
    """The stream of training samples can be made."""
    patient.part("loader")
    return ok(f"samples of {patient.splits['train'].name}")


def look_at_evaluation(patient: Patient) -> Verdict:
    """Loader and evaluators of the validation split can be made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, of many processes: another row says it
        evaluation = patient.part("evaluation")
    return ok(f"{', '.join(evaluation.evaluators)} of {evaluation.dataset}")

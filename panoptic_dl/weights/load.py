"""Load a weights file completely, or say why not."""

import difflib
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from panoptic_dl.core.classes import CLASSES, Classes, classes_of_weights
from panoptic_dl.core.errors import WeightsError
from panoptic_dl.core.files import PROGRAM, printable
from panoptic_dl.core.run_folder import find_weights, image_format_of
from panoptic_dl.weights.files import WeightsFile, read_weights
from panoptic_dl.weights.names import (
    BACKBONE,
    COUNTER,
    INTEGER_DTYPES,
    REAL_DTYPES,
    STATISTICS,
    find_statistics,
    fit,
    is_compatible,
    not_finite,
)

MAX_NAMES = 20  # of classes in a line of the log
CLASSIFIER = "sem_seg_head.predictor."  # the only parameters that depend on the number of classes

logger = logging.getLogger(__name__)


def load_model(model: nn.Module, path: str | Path, image_format: str = "RGB") -> "Coverage":
    """Load every parameter and buffer of `model` from a file, or from a run folder of ours.

    `image_format` is the channel order of the images that the run feeds, RGB or BGR.

    Raises WeightsError: a name is missing or unexpected, or a shape differs; the message lists
    them. Or the file cannot be read, or is for another channel order.
    """
    return _load(model, _read(model, path, image_format))


def load_to_train(
    model: nn.Module,
    path: str | Path,
    image_format: str = "RGB",
    match: str = "strict",
    classes: Classes | None = None,
) -> "Coverage":
    """Load what a training starts from: a whole model, its backbone, or another part of it.

    A backbone with an `encoder`, which pre-trained files are of, is covered by that alone, by the
    names that its `convert_names` gives the file's tensors.

    Args:
        image_format: channel order of the images that the run feeds, RGB or BGR.
        match: what has to be in the file.
            "strict": all of the model; or all of its backbone, and then a classifier or a decoder
            beside it is left out, and logged.
            "transfer": all but the classifier. Its rows of classes that the file's run had by the
            same name are the file's, the others stay as they are.
            The name of a module of the model, such as "backbone": all of that; the rest of the file
            is left out.

    Raises:
        ValueError: `match` is neither, and no module.
        WeightsError: the file does not have it, cannot be read, or is for another channel order.
    """
    modules = [name for name, _ in model.named_modules() if name]
    if match not in ("strict", "transfer", *modules):
        top = [name for name, _ in model.named_children()]
        near = difflib.get_close_matches(match, ("strict", "transfer", *modules), n=3)
        raise ValueError(
            f"weights_match={match} is neither strict, transfer nor a module of the model: choose "
            f"one of {', '.join(near or ['strict', 'transfer', *top])}"
        )
    file = _read(model, path, image_format)
    if match in modules and match != "backbone":
        return _load(model.get_submodule(match), file, part=match)
    theirs = classes_of_weights(path) if classes is not None else None
    if match == "transfer":
        return _load(model, file, classifier=_merge_rows(model, file, classes, theirs))
    own = model.state_dict()
    with _naming(file):
        matched = own.keys() & fit(own, file.tensors, whole=True).tensors.keys()
    # Of a whole model something of the heads is there, too, and then all of it must be.
    if match == "backbone" or {name.startswith(BACKBONE) for name in matched} != {True, False}:
        backbone: Any = model.get_submodule("backbone")
        encoder = getattr(backbone, "encoder", None)
        if encoder is None or any(name.startswith(f"{BACKBONE}encoder.") for name in matched):
            return _load(backbone, file, part="backbone")
        converted = replace(file, tensors=backbone.convert_names(file.tensors))
        coverage = _load(encoder, converted, part="backbone")
        if parts := {name.partition(".")[0] for name in backbone.state_dict()} - {"encoder"}:
            logger.info("Not in it, so trained from scratch: %s of the backbone", ", ".join(parts))
        return coverage
    if (
        theirs
        and classes
        and (differs := theirs.difference(classes))
        and len(theirs) == len(classes)
    ):
        logger.warning(
            "weights=%s was trained on other classes than these (%s), and its classifier is taken "
            "all the same: weights_match=transfer takes the rows of classes by their names",
            file.path,
            printable(differs),
        )
    return _load(model, file)


def _merge_rows(
    model: nn.Module, file: WeightsFile, classes: Classes | None, theirs: Classes | None
) -> dict[str, Tensor]:
    """The classifier's tensors, with a file's rows for classes that both have."""
    own = {n: t.clone() for n, t in model.state_dict().items() if n.startswith(CLASSIFIER)}
    with _naming(file):
        found = fit(model.state_dict(), file.tensors, whole=True).tensors
    if classes is None or theirs is None:
        logger.warning("No %s beside %s: its classifier is not used", CLASSES, file.path)
        return own
    rows = {name: i for i, name in enumerate(theirs.names)}
    shared = [name for name in classes.names if name in rows]
    for name, tensor in own.items():
        saved = found.get(name)
        if saved is None or saved.shape != (len(theirs), *tensor.shape[1:]):
            logger.warning("%s in %s is of another shape: it is not used", name, file.path)
            continue
        for i, each in enumerate(classes.names):
            if each in rows:
                tensor[i] = saved[rows[each]]
    new = [name for name in classes.names if name not in rows]
    for what, names in (("from the file", shared), ("new", new)):
        more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
        listed = ", ".join(map(printable, names[:MAX_NAMES])) + more or "none"
        logger.info("Classes whose rows of the classifier are %s: %s", what, listed)
    logger.info("The classifier: %s", ", ".join(own))
    return own


def start_from(
    model: nn.Module,
    weights: str | None,
    expected: Mapping[str, Any] | None,
    image_format: str = "RGB",
    match: str = "strict",
    classes: Classes | None = None,
) -> Path | None:
    """Load what training starts from (see `load_to_train`), and return that file.

    Without any, log what that means: `expected` is what the recipe starts from, `file`, the name
    of the pre-trained file, and `source`, where it comes from; None: random weights are as it
    should be. A backbone that has `pretrained` set, and is given no weights, fetches its own.

    Raises ValueError: `match` is wrong, or there are no weights to be matched; WeightsError: the
    weights do not fit, or cannot be read or fetched.
    """
    backbone: Any = getattr(model, "backbone", model)
    if weights is None and getattr(backbone, "pretrained", False):
        if image_format != "RGB":
            raise WeightsError(
                "backbone.pretrained=true fetches weights for RGB images, this run feeds "
                f"{image_format}: set dataset.image_format=RGB"
            )
        weights = backbone.fetch_pretrained()
    if weights is not None:
        load_to_train(model, weights, image_format, match, classes)
        return find_weights(weights)
    if match != "strict":
        raise ValueError(f"weights_match={match} needs weights=, a file or a run folder")
    if expected is None:
        logger.info("No weights= given: training starts from %s", initial_weights(backbone))
        return None
    for line in (
        "=" * 78,
        "NO PRE-TRAINED WEIGHTS: weights= is not given, training starts from random weights.",
        f"The published metrics start from {expected['file']} (ImageNet),",
        f"which comes from {expected['source']}.",
        "Without it expect metrics well below the published ones. To use it:",
        f"    {PROGRAM} ... weights={expected['file']}",
        "=" * 78,
    ):
        logger.warning(line)
    return None


def initial_weights(backbone: nn.Module) -> str:
    """What a backbone is made of that is given no weights, for messages."""
    if hasattr(backbone, "fetch_pretrained"):
        return "random weights; backbone.pretrained=true fetches pre-trained ones"
    if type(backbone).__module__.partition(".")[0] in (__package__.partition(".")[0], "detectron2"):
        return "random weights, as intended"
    return f"the weights that {type(backbone).__name__} was built with"


@dataclass(frozen=True)
class Coverage:
    """How the tensors of a file and the parameters and buffers of a network agree.

    Batch counters (`num_batches_tracked`) change no result: files from before torch 0.4.1 have
    none, frozen layers have none, and a file of half precision has them as real numbers. They are
    counted, and never make a file unfit.
    """

    matched: list[str]  # in both, of one shape
    # What makes the file unfit, by kind, none of them empty: names that the file lacks ("missing"),
    # that the network lacks ("unexpected"), or "name (shape in the file) for (in the network)".
    faults: dict[str, list[str]]
    left_out: Mapping[str, int]  # parts that are none of the network -> number of tensors
    counters_missing: int
    counters_unexpected: int
    percent: float  # share of the network's values, without counters, that the file has
    num_values: int  # of the network, without counters

    def lines(self, shown: int = 4) -> list[str]:
        """The report, a fact a line; at most `shown` names of a kind."""
        lines = [f"{len(self.matched)} matched: {self.percent:.2f} % of the values"]
        for kind, names in self.faults.items():
            more = ", ..." if len(names) > shown else ""
            lines.append(f"{len(names)} {kind}: {', '.join(map(printable, names[:shown]))}{more}")
        if self.left_out:
            parts = [
                f"{printable(part)} ({count} tensor{'s' * (count > 1)})"
                for part, count in self.left_out.items()
            ]
            more = ", ..." if len(parts) > shown else ""
            lines.append(f"no part of it, left out: {', '.join(parts[:shown])}{more}")
        if self.counters_missing:
            lines.append(f"{self.counters_missing} batch counters missing: they stay at 0")
        if self.counters_unexpected:
            lines.append(f"{self.counters_unexpected} batch counters that nothing counts: ignored")
        return lines


def compare(
    own: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    left_out: Mapping[str, int] | None = None,
) -> Coverage:
    """Compare a file's `tensors` with the state dict `own` of a network; nothing is changed.

    Integers in place of real numbers, or the reverse, are a mismatch like a wrong shape; so are
    dtypes that torch may not be able to copy, which would fail half-way.
    """
    matched, mismatched = [], []
    for name, ours in own.items():
        if name not in tensors or name.endswith(COUNTER):
            continue
        theirs = tensors[name]
        if theirs.shape != ours.shape:
            mismatched.append(f"{name} {tuple(theirs.shape)[:8]} for {tuple(ours.shape)}")
        elif not is_compatible(theirs.dtype, ours.dtype):
            mismatched.append(f"{name} {theirs.dtype} for {ours.dtype}")
        else:
            matched.append(name)
    counters = [name for name in own if name.endswith(COUNTER)]
    missing = [name for name in own if name not in tensors and not name.endswith(COUNTER)]
    unexpected = [name for name in tensors if name not in own]
    num_values = sum(value.numel() for name, value in own.items() if not name.endswith(COUNTER))
    num_matched = sum(own[name].numel() for name in matched)
    faults = {
        "missing": missing,
        "unexpected": [name for name in unexpected if not name.endswith(COUNTER)],
        "of another shape": mismatched,
    }
    return Coverage(
        matched=matched,
        faults={kind: names for kind, names in faults.items() if names},
        left_out=left_out or {},
        counters_missing=sum(not _is_counter(tensors.get(name)) for name in counters),
        counters_unexpected=sum(name.endswith(COUNTER) for name in unexpected),
        percent=100 * num_matched / num_values if num_values else 100.0,
        num_values=num_values,
    )


def _is_counter(value: Tensor | None) -> bool:
    """Whether it can be a batch counter, also one that was converted with the other tensors."""
    return value is not None and value.numel() == 1 and value.dtype in REAL_DTYPES | INTEGER_DTYPES


def _read(model: nn.Module, path: str | Path, image_format: str) -> WeightsFile:
    """A file, of which the log is told, for images as the run feeds them."""
    place = find_weights(path)
    file = read_weights(place)
    first, *others = file.lines()
    logger.info("weights=%s", first)
    if file.other:
        others.append(f"beside the weights, not used: {', '.join(map(printable, file.other))}")
    for line in others:
        logger.info("    %s", line)
    if not file.provenance and (order := image_format_of(place.parent)) not in (None, image_format):
        raise _other_order(file, str(order), image_format)
    _check_pixels(model, file, image_format)
    return file


def _other_order(file: WeightsFile, theirs: str, ours: str) -> WeightsError:
    return WeightsError(
        f"weights={file.path} expects {theirs} images, this run feeds {ours}: "
        f"set dataset.image_format={theirs}, or take weights for the other order"
    )


@contextmanager
def _naming(file: WeightsFile) -> Iterator[None]:
    """Begin the message of an error with the file."""
    try:
        yield
    except WeightsError as error:
        raise WeightsError(f"weights={file.path}: {error}") from None


def _check_pixels(model: nn.Module, file: WeightsFile, image_format: str) -> None:
    """Compare the images that a file expects with those of the run.

    Other statistics (of an old Detectron2's tensors, or the provenance) are a loud warning, for a
    network can be trained on from them; another channel order is a WeightsError.
    """
    statistics = find_statistics(file.tensors)
    if file.provenance:
        statistics = {name: getattr(file.provenance, name) for name in STATISTICS}
        if file.provenance.image_format != image_format:
            raise _other_order(file, file.provenance.image_format, image_format)
    for name, theirs in statistics.items():
        own = getattr(model, name, None)
        if own is None:
            continue
        ours = own.flatten().tolist()
        close = partial(math.isclose, rel_tol=1e-4, abs_tol=1e-4)
        if len(ours) == len(theirs) and all(map(close, ours, theirs)):
            continue
        key = "pixels." + name.removeprefix("pixel_")
        for line in (
            f"weights={file.path} was trained with another {name} than this run uses:",
            f"    the file: {list(theirs)}",
            f"    this run: {ours}",
            f"Metrics will be wrong unless that is meant. To use the file's: {key}={list(theirs)}",
        ):
            logger.warning(line)


def _load(
    module: nn.Module,
    file: WeightsFile,
    *,
    part: str = "",
    classifier: Mapping[str, Tensor] | None = None,
) -> Coverage:
    """Load a module, or raise and change nothing; `part` is its name, of a part of the model."""
    own, prefix, rest = module.state_dict(), None, part
    with _naming(file):
        if part and part != "backbone":  # of which files have the bare names, too
            named = {f"{part}.{name}": tensor for name, tensor in own.items()}
            prefix = f"{fit(named, file.tensors).prefix}{part}."
        found = fit(own, file.tensors, prefix=prefix, whole=not part)
    if classifier:
        rest = "all but the classifier"
        own = {name: tensor for name, tensor in own.items() if name not in classifier}
        for name in classifier:
            found.tensors.pop(name, None)
    coverage = compare(own, found.tensors, found.left_out)
    source = f"weights={file.path}" + (f" ({rest})" if rest else "")
    differing = {name.partition(" ")[0] for names in coverage.faults.values() for name in names}
    if differing and all(name.startswith(CLASSIFIER) for name in differing):
        raise WeightsError(
            f"{source} has a classifier of other classes ({'; '.join(coverage.lines()[1:])}); "
            "nothing was loaded. All else fits: to train on from it, weights_match=transfer"
        )
    if coverage.faults:
        raise WeightsError(
            f"{source} is of another architecture than the model; nothing was loaded.\n"
            + "".join(f"  {line}\n" for line in coverage.lines())
            + "Choose backbone=, head=, dataset= and task= as the weights were trained; to train "
            "from the backbone alone of a whole model, weights_match=backbone"
        )
    if bad := list(not_finite({name: found.tensors[name] for name in coverage.matched})):
        logger.warning(
            "%s holds infinite values or NaN in %d tensors, such as %s: it comes from a training "
            "that failed; take another checkpoint",
            source,
            len(bad),
            printable(bad[0]),
        )
    state = {name: found.tensors[name] for name in coverage.matched}
    for name in own:
        if name.endswith(COUNTER) and _is_counter(found.tensors.get(name)):
            state[name] = found.tensors[name].nan_to_num(0, 0, 0).reshape(()).long()
    module.load_state_dict(state | dict(classifier or {}), strict=False)
    if found.prefix:
        logger.info("Its names begin with '%s'", printable(found.prefix))
    logger.info("Loaded %s: %s", source, "; ".join(coverage.lines()))
    return coverage

"""Arithmetic and memory layout of networks: precision, channels-last, torch.compile.

None of these changes a name in checkpoints.
"""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from panoptic_dl.core.settings import PRECISIONS, TrainSettings, require_value
from panoptic_dl.models.activation_checkpointing import recompute_activations

AUTO = "auto"  # of evaluation.precision and the like: see `train.inference`

logger = logging.getLogger(__name__)

_lock = threading.Lock()
_inside: list[dict[str, Any]] = []  # settings before, of each `float32` that is entered


def check_precision(key: str, precision: str, device: torch.device) -> None:
    """Raise ValueError, with the key, for a precision that is unknown or not of the device.

    "tf32" is of every device: one without TensorFloat-32 computes it as fp32.
    """
    require_value(key, precision, str, PRECISIONS)
    if device.type == "cpu" and precision == "fp16":
        raise ValueError(f"{key}=fp16 needs a GPU; on the CPU choose fp32 or bf16")
    if device.type == "cuda" and precision in ("bf16", "fp16"):
        major, minor = torch.cuda.get_device_capability(device)
        needed, other = {"bf16": (8, "fp16"), "fp16": (7, "fp32")}[precision]
        if major < needed:
            raise ValueError(
                f"{key}={precision}: {torch.cuda.get_device_name(device)} (compute capability "
                f"{major}.{minor}) has no arithmetic of its own for it; choose {other} or tf32"
            )


def plain_precision(key: str, precision: str, device: torch.device) -> str:
    """One of `PRECISIONS` for "auto": bf16 where the device has units for it, else fp32.

    Raises ValueError, with the key, for a precision that is unknown or not of the device.
    """
    if device.type == "cuda":
        has_units = precision == AUTO and torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        units: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
        has_units = bool(units.get("avx512_bf16") or units.get("amx_bf16"))
        if precision == "bf16" and not has_units:
            logger.warning("%s=bf16 is emulated on this CPU, and many times slower than fp32", key)
    if precision == AUTO:
        return "bf16" if has_units else "fp32"
    check_precision(key, precision, device)
    return precision


@contextlib.contextmanager
def float32(*, tf32: bool) -> Iterator[None]:
    """Convolutions inside may round their inputs to 10 bits of mantissa on a GPU, or may not.

    That they may, and matrix products may not, is the default of PyTorch and thereby of Detectron2,
    which leaves it alone. The process's settings are restored afterwards, also after an error: the
    next job of a sweep must not inherit them. Of several threads inside, the last to enter decides.
    """
    backends: Any = torch.backends
    cudnn, matmul, mkldnn = backends.cudnn, backends.cuda.matmul, backends.mkldnn
    wanted = dict.fromkeys((cudnn.conv, cudnn.rnn), "tf32" if tf32 else "ieee")
    wanted |= dict.fromkeys((matmul, mkldnn.conv, mkldnn.matmul), "ieee")
    with _lock:
        entry: dict[str, Any] = {"new": {op: op.fp32_precision for op in wanted}}
        # Those of the older API cannot be read while they contradict the newer one.
        with contextlib.suppress(RuntimeError):
            entry["convolutions"], cudnn.allow_tf32 = cudnn.allow_tf32, tf32
        with contextlib.suppress(RuntimeError):
            entry["products"] = torch.get_float32_matmul_precision()
            torch.set_float32_matmul_precision("highest")
        _inside.append(entry)
        _set_precisions(wanted)
    try:
        yield
    finally:
        with _lock:
            number = next(i for i, each in enumerate(_inside) if each is entry)
            if later := _inside[number + 1 :]:  # of another thread, which restores them
                later[0].clear()
                later[0].update(entry)
            else:
                if "convolutions" in entry:
                    cudnn.allow_tf32 = entry["convolutions"]
                if "products" in entry:
                    torch.set_float32_matmul_precision(entry["products"])
                _set_precisions(entry["new"])
            del _inside[number]


def _set_precisions(wanted: Mapping[Any, str]) -> None:
    for op, precision in wanted.items():
        if op.fp32_precision != precision:  # else it may follow a more general setting
            op.fp32_precision = precision


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Networks inside compute in bf16 or fp16 where they can, if `precision` is one of these."""
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return torch.autocast(device.type, dtype=half, enabled=half is not None)


def prepare_training(model: nn.Module, settings: TrainSettings) -> None:
    """Apply the settings to how `model` trains, in place; on its device, before it is wrapped.

    Only the training mode is compiled: evaluation meets images of many sizes, each of which would
    be compiled anew. Raises ValueError where the machine cannot compile.
    """
    if settings.activation_checkpointing:
        blocks = recompute_activations(model.get_submodule("backbone"))
        logger.info("Activations inside %d blocks of the backbone are computed twice", blocks)
    if settings.channels_last:
        # Convolutions whose weights are channels-last make channels-last outputs of any input.
        model.to(memory_format=torch.channels_last)
    if settings.compile:
        with compile_errors("train.compile"):
            example = torch.ones(8, device=next(model.parameters()).device)
            torch.compile(lambda x: 2 * x + 1)(example)
        mode = settings.compile if isinstance(settings.compile, str) else None
        _compile_in_training(model.get_submodule("backbone"), "forward", mode)
        for head in model.children():  # of Detectron2's heads all but upsampling and losses
            if callable(getattr(head, "layers", None)):
                _compile_in_training(head, "layers", mode)
        logger.info("torch.compile: the first steps take longer")


@contextlib.contextmanager
def fixed_sizes() -> Iterator[None]:
    """cuDNN tries its algorithms inside, once for every size of inputs, and takes the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def training_arithmetic(settings: TrainSettings) -> Iterator[None]:
    """The process-wide state that the settings need, inside only."""
    try:
        with float32(tf32=settings.precision == "tf32"):
            yield
    finally:
        if settings.compile:
            # What is compiled counts against a limit by function, not by model: the jobs of a
            # sweep would run into it and then train uncompiled.
            torch.compiler.reset()


def _compile_in_training(owner: nn.Module, method: str, mode: str | None) -> None:
    plain: Callable[..., Any] = getattr(owner, method)
    fast: Callable[..., Any] = torch.compile(plain, mode=mode)

    def chosen(*inputs: Any) -> Any:
        return fast(*inputs) if owner.training else plain(*inputs)

    setattr(owner, method, chosen)


@contextlib.contextmanager
def compile_errors(key: str) -> Iterator[None]:
    """Raise ValueError that names `key` where torch.compile fails inside."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"{key}=true needs a C++ compiler (on the CPU) or Triton (on a GPU); "
            f"torch.compile said: {type(error).__name__}: {str(error)[:300]}"
        ) from error


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Networks inside compute in one of `PRECISIONS`, exactly."""
    with float32(tf32=precision == "tf32"), autocast(precision, device):
        yield

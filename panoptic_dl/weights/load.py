"""Load a weights file completely, or say why not; nothing in the file is ever executed."""

import logging
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

logger = logging.getLogger(__name__)


class WeightsError(ValueError):
    """A weights file is missing, unreadable, or of another architecture."""


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read `.safetensors`, `.pth` or `.pt` into {parameter name: tensor}, on the CPU.

    A `.pth` may wrap the parameters in `model` or `state_dict`; it is opened with `weights_only`.

    Raises:
        WeightsError: the file is missing, damaged, or of a kind that could run code when opened.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"weights={path}: there is no such file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix not in (".pth", ".pt"):
            raise WeightsError(
                f"weights={path}: only .safetensors, .pth and .pt are read; other kinds (pickle) "
                "can run code when they are opened"
            )
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(
            f"weights={path} is empty, truncated or of another kind than its name says: {error}"
        ) from error
    except Exception as error:  # pickle.UnpicklingError
        raise WeightsError(
            f"weights={path} is no PyTorch file, or holds more than tensors: {error}"
        ) from error
    for wrapper in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    parameters = state if isinstance(state, dict) else {}
    tensors = {name: value for name, value in parameters.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"weights={path} holds no parameters")
    if all(name.startswith("module.") for name in tensors):  # saved inside DataParallel
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def load_model(model: nn.Module, path: str | Path) -> None:
    """Load every parameter and buffer of `model` from a file.

    Raises:
        WeightsError: a name is missing or unexpected, or a shape differs; the message lists them.
    """
    _load(model, read_weights(path), f"weights={path}")


def load_model_or_backbone(model: nn.Module, path: str | Path) -> None:
    """Load a whole model, or only its backbone from a file that covers all of the backbone.

    Parts of a classifier that a backbone's file has beside it are left out, and logged.

    Raises:
        WeightsError: the file covers neither.
    """
    tensors = read_weights(path)
    if all(name.startswith("backbone.") for name in tensors):
        tensors = {name.removeprefix("backbone."): value for name, value in tensors.items()}
    elif any(name.startswith("backbone.") for name in tensors):
        return _load(model, tensors, f"weights={path}")
    backbone = model.get_submodule("backbone")
    wanted = {name for name in backbone.state_dict() if not _is_counter(name)}
    left_out = sorted(
        {name.split(".")[0] for name in tensors.keys() - backbone.state_dict().keys()}
    )
    if left_out and wanted <= tensors.keys():
        logger.info("weights=%s: left out %s, no parts of the backbone", path, ", ".join(left_out))
        tensors = {name: tensors[name] for name in backbone.state_dict() if name in tensors}
    _load(backbone, tensors, f"weights={path} (backbone)")


def _load(module: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    own = module.state_dict()
    missing = [n for n in own if n not in tensors and not _is_counter(n)]
    unexpected = [n for n in tensors if n not in own]
    shapes = [
        f"{n} {tuple(tensors[n].shape)} for {tuple(own[n].shape)}"
        for n in own
        if n in tensors and tensors[n].shape != own[n].shape
    ]
    faults = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if any(faults.values()):
        lines = [f"  {len(n)} {kind}: {_first(n)}\n" for kind, n in faults.items() if n]
        raise WeightsError(
            f"{source} is of another architecture than the model; nothing was loaded.\n"
            + "".join(lines)
            + "Choose backbone=, head=, dataset= and task= as the weights were trained"
        )
    module.load_state_dict(tensors, strict=False)
    logger.info("Loaded all %d tensors of %s", len(own), source)


def _is_counter(name: str) -> bool:
    """Batch counters are bookkeeping: files from before torch 0.4.1 do not have them."""
    return name.endswith("num_batches_tracked")


def _first(names: list[str]) -> str:
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")

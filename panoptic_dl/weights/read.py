"""Containers of weights: `.safetensors`, `.pth` and `.pkl` into tensors and provenance.

Nothing in a file is ever executed: `.safetensors` holds nothing executable, `.pth` is opened with
torch's `weights_only`, and `.pkl` by the allow-list in `pickles`.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from panoptic_dl.whole_files import sha256_of

from .errors import WeightsError
from .pickles import read_pickle
from .printable import printable
from .provenance import Provenance, megabytes, read_provenance

logger = logging.getLogger(__name__)

DEEPEST = 8  # wrappers: a file may hold itself
KINDS = (".safetensors", ".pth", ".pt", ".pkl")
WRAPPERS = ("model", "state_dict")


@dataclass(frozen=True)
class WeightsFile:
    """What was read."""

    path: Path
    sha256: str
    size: int  # bytes
    tensors: dict[str, Tensor]  # by the names in the file, on the CPU
    beside: dict[str, Any]  # what the file holds beside them, such as `iteration` and `ema`
    provenance: Provenance | None

    def lines(self) -> list[str]:
        """For a log: what file this is and where it comes from."""
        first = f"{printable(str(self.path), 4096)} ({megabytes(self.size)}, SHA-256 {self.sha256})"
        said = self.provenance.lines() if self.provenance else ["carries no provenance"]
        return [first, *said]


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """{name in the file: tensor}, on the CPU; see `read_file`."""
    return read_file(path).tensors


def read_file(path: str | Path) -> WeightsFile:
    """Read a weights file of any kind, whatever wraps its parameters.

    Parameters may lie in `model` or `state_dict`, also one in the other, beside an optimizer's
    state and the like.

    Raises:
        WeightsError: the file is missing, damaged, without parameters, or asks for code.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise WeightsError(f"weights={path}: there is no such file")
    if path.suffix not in KINDS:
        raise WeightsError(
            f"weights={path}: only {', '.join(KINDS)} are read; other kinds can run code when they "
            "are opened"
        )
    content, header = _read_content(path)
    outer = content
    try:
        state, beside = unwrap(content)
        stored = header or (outer.get("provenance") if isinstance(outer, Mapping) else None)
        provenance = read_provenance(stored if isinstance(stored, Mapping) else None)
    except WeightsError as error:
        raise WeightsError(f"weights={path}: {error}") from None
    tensors = {str(name): value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise WeightsError(f"weights={path} holds no parameters")
    odd = [n for n, t in tensors.items() if t.layout != torch.strided or t.device.type != "cpu"]
    if odd:
        raise WeightsError(
            f"weights={path}: {printable(odd[0])} is sparse or empty, not an array of numbers"
        )
    if others := [printable(n) for n, v in state.items() if not isinstance(v, Tensor)]:
        logger.info("weights=%s: not tensors, and ignored: %s", path, ", ".join(others[:8]))
    return WeightsFile(
        path=path,
        sha256=sha256_of(path),
        size=path.stat().st_size,
        tensors={name: value.detach() for name, value in tensors.items()},
        beside=beside,
        provenance=provenance,
    )


def unwrap(content: Any) -> tuple[dict[Any, Any], dict[str, Any]]:
    """The parameters inside `model` and `state_dict`, and what lies beside them.

    Raises:
        WeightsError: both are there, side by side; or they are nested without an end.
    """
    beside: dict[str, Any] = {}
    for _ in range(DEEPEST):
        if not isinstance(content, Mapping):
            return {}, beside
        found = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if len(found) > 1:
            raise WeightsError(
                "it holds both `model` and `state_dict`, and does not say which are the weights"
            )
        if not found:
            return dict(content), beside
        beside |= {str(k): v for k, v in content.items() if k not in (*found, "provenance")}
        content = content[found[0]]
    raise WeightsError(f"its weights lie more than {DEEPEST} wrappers deep; save them as `model`")


def _read_content(path: Path) -> tuple[Any, dict[str, str] | None]:
    """What the container holds, and the texts in its header if it has one."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                return tensors, file.metadata()
        if path.suffix == ".pkl":
            return read_pickle(path), None
        return torch.load(path, map_location="cpu", weights_only=True), None
    except WeightsError:
        raise
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError) as error:
        raise WeightsError(
            f"weights={path} is empty, truncated or of another kind than its name says: "
            f"{printable(str(error), 2000)}"
        ) from error
    except Exception as error:  # pickle.UnpicklingError, and what a torn archive makes of Python
        raise WeightsError(
            f"weights={path} is no PyTorch file, or holds more than tensors and plain values: "
            f"{printable(str(error), 2000)}"
        ) from error

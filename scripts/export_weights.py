"""Make of a run the file that one would publish: no optimizer state, named by experiment and hash.

    python scripts/export_weights.py RUN [--to FOLDER] [--checkpoint model_best.pth] [--ema]
    python scripts/export_weights.py RUN --hub FOLDER [--push USER/NAME]

RUN is an output folder. Taken is model_best.pth of a run with checkpoint.best or train.early_stop,
else model_final.pth, else the newest checkpoint. The file is loaded into the model of the run's
saved config, and every value compared, before it gets its name. --hub makes a folder to be shared,
with the config and a model card; --push uploads it to the Hugging Face hub.
"""

import argparse
import json
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from hub_folder import check_folder, push, write_folder
from panoptic_dl.config import allow, build
from panoptic_dl.config.composition import add_config_dir, open_run
from panoptic_dl.core.errors import WeightsError, one_line_errors
from panoptic_dl.core.files import local_path, printable, read_json_object, sha256_of
from panoptic_dl.core.parallel import size_text
from panoptic_dl.core.run_folder import (
    AVERAGE,
    BEST,
    CONFIG,
    MANIFEST,
    RESULTS,
    Fields,
    find_checkpoint,
)
from panoptic_dl.weights.files import (
    MAX_TEXT,
    Provenance,
    WeightsFile,
    read_weights,
    write_weights,
)
from panoptic_dl.weights.load import compare, load_model

CHOICES = ("dataset", "task", "backbone", "head")
AVERAGE_RESULTS = f"ema/{RESULTS}"
HASH_DIGITS = 8  # of the SHA-256 in the name of an exported file


@one_line_errors()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", metavar="RUN", type=local_path)
    parser.add_argument("--to", metavar="FOLDER", type=local_path, help="default: RUN itself")
    parser.add_argument("--hub", metavar="FOLDER", type=local_path, help="make a folder to share")
    parser.add_argument("--push", metavar="USER/NAME", help="upload it; HF_TOKEN has your token")
    parser.add_argument("--private", action="store_true", help="--push: make a private repository")
    parser.add_argument("--checkpoint", metavar="NAME", help="a .pth file in RUN")
    parser.add_argument("--ema", action="store_true", help="take the averaged weights")
    parser.add_argument("--licence", default="not stated", help="kept in the file, as you state it")
    parser.add_argument(
        "--allow",
        metavar="PACKAGE",
        action="append",
        default=[],
        help="a package of your own that the run's config builds from, and no lazy file allows",
    )
    add_config_dir(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")
    arguments = parser.parse_args()
    if arguments.push and not arguments.hub:
        parser.error("--push uploads the folder that --hub FOLDER makes: name both")
    if arguments.hub and arguments.to:
        parser.error("--hub is a folder of its own: leave out --to")
    run(arguments)


def run(arguments: argparse.Namespace) -> None:
    folder: Path = arguments.run
    if arguments.hub:
        check_folder(arguments.hub, overwrite=arguments.overwrite)
    allow(*arguments.allow)
    config, published = read_config(folder, arguments.config_dir)
    best = OmegaConf.select(config, "checkpoint.best") or config.get("train", {}).get("early_stop")
    name = BEST if best and not arguments.ema and (folder / BEST).is_file() else None
    checkpoint = find_checkpoint(folder, arguments.checkpoint or name)
    model = build(config.task.model)
    for name in ("pixel_mean", "pixel_std"):
        published[name] = published[name] or tuple(getattr(model, name).flatten().tolist())
    file = export(
        checkpoint,
        model,
        arguments.hub or arguments.to or folder,
        ema=arguments.ema,
        licence=arguments.licence,
        overwrite=arguments.overwrite,
        **published,
    )
    before, after = (size_text(path.stat().st_size) for path in (checkpoint, file))
    if arguments.hub:
        name = arguments.push or arguments.hub.absolute().name
        file = write_folder(arguments.hub, file, config, folder, name)
    print(f"{checkpoint.name} ({before}) -> {file} ({after})")
    print("read again and loaded into the model of the run's config: every value is the same")
    if arguments.push:
        push(arguments.hub, arguments.push, private=arguments.private)


def read_config(
    folder: Path, config_dirs: Sequence[Path] = ()
) -> tuple[DictConfig, dict[str, Any]]:
    """The run's saved config, and what is published of it: arguments of `export`.

    These values are taken as they stand in the file, never resolved: `${oc.env:...}` would publish
    a variable of whoever exports, and a choice such as `../x` would leave the folder.

    Raises:
        ValueError: there is none, or what names the experiment is missing or no plain value.
    """
    file, config = folder / CONFIG, open_run(folder, config_dirs)
    choice, pixels, dataset = (
        cast(dict[str, Any], OmegaConf.to_container(config[key], resolve=False))
        for key in ("choice", "pixels", "dataset")
    )
    for name in CHOICES:
        value = choice.get(name)
        if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]+", value):
            raise WeightsError(
                f"{file} is no config of a run: choice.{name} is {printable(value)}, and not a "
                "name of letters, digits, - and _; restore the file that the run wrote"
            )
    image_format = dataset.get("image_format")
    if image_format not in ("RGB", "BGR"):
        raise WeightsError(
            f"{file}: dataset.image_format is {printable(image_format)}; write RGB or BGR there"
        )
    for name in ("mean", "std"):
        values = pixels.get(name, "")
        if values is None:  # those of the backbone, which the model has
            continue
        if not isinstance(values, list) or not all(type(v) in (int, float) for v in values):
            raise WeightsError(f"{file}: pixels.{name} is no list of numbers; write them there")
    return config, {
        "row": "_".join(choice[name] for name in CHOICES),
        "image_format": image_format,
        "pixel_mean": tuple(map(float, pixels["mean"] or ())),
        "pixel_std": tuple(map(float, pixels["std"] or ())),
    }


def export(
    checkpoint: Path,
    model: nn.Module,
    folder: Path,
    *,
    ema: bool,
    row: str,
    pixel_mean: tuple[float, ...],
    pixel_std: tuple[float, ...],
    image_format: str,
    licence: str,
    overwrite: bool,
) -> Path:
    """Write `<folder>/<row>-<first digits of its SHA-256>.safetensors` and prove that it loads.

    The same checkpoint gives the same file, and so the same name. A moving average is named
    `<row>-ema-<...>`. Metrics are those of these very weights, or none.

    Args:
        checkpoint: in its run's folder, where git revision and metrics are read.
        model: of the run's config, of any values: the file is loaded into it.
        ema: take the moving averages that the checkpoint holds.
        row: dataset_task_backbone_head.

    Raises:
        WeightsError: the checkpoint is not of this model, has no averages, or the file is there
            already.
        OSError: the disk is full, or does not keep what it is given.
    """
    file = read_weights(checkpoint)
    tensors = averages(file) if ema else file.tensors
    averaged = ema or checkpoint.name == AVERAGE
    coverage = compare(model.state_dict(), tensors)
    if coverage.faults:
        raise WeightsError(
            f"{checkpoint} is not of the model in its run's config:\n  "
            + "\n  ".join(coverage.lines())
        )
    run, iteration = checkpoint.parent, finished_iterations(file)
    metrics = metrics_of_checkpoint(run, checkpoint.name, file.sha256)  # refuses other files, too
    if averaged:
        metrics = metrics_of_average(run, iteration)
    changed = datetime.fromtimestamp(checkpoint.stat().st_mtime, timezone.utc)
    provenance = Provenance(
        source_file=checkpoint.name,
        source_sha256=file.sha256,
        source_size=file.size,
        date=changed.isoformat(timespec="seconds"),
        licence=licence,
        converter=f"panoptic-dl {metadata.version('panoptic-dl')}",
        origin="a run of panoptic-dl",
        architecture=row,
        pixel_mean=pixel_mean,
        pixel_std=pixel_std,
        image_format=image_format,
        percent=coverage.percent,
        row=row + (" (moving average of the weights)" if averaged else ""),
        iteration=iteration,
        revision=read_revision(run / "git.txt"),
        metrics=metrics,
    )
    if not folder.is_dir():
        raise WeightsError(f"there is no folder {folder}; make it, or name another with --to")
    with tempfile.TemporaryDirectory(prefix=".unverified-", dir=folder) as fresh:
        unnamed = Path(fresh) / "unverified.safetensors"
        write_weights(unnamed, tensors, provenance)
        load_model(model, unnamed, image_format)
        for name, own in model.state_dict().items():
            if name in tensors and not torch.allclose(
                own.cpu().double(), tensors[name].double(), rtol=0, atol=0, equal_nan=True
            ):
                raise OSError(f"{unnamed}: {printable(name)} is another after loading")
        name = f"{row}-ema" if averaged else row
        target = folder / f"{name}-{sha256_of(unnamed)[:HASH_DIGITS]}.safetensors"
        if target.exists() and not overwrite:
            raise WeightsError(f"{target} exists; it is this very file, or allow --overwrite")
        return unnamed.replace(target)


def averages(file: WeightsFile) -> dict[str, Tensor]:
    average = file.other.get("ema")
    found = average.get("model") if isinstance(average, Mapping) else None
    if not isinstance(found, Mapping) or not found:
        raise WeightsError(f"{file.path} holds no averaged weights (`ema`): leave out --ema")
    if not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"{file.path}: `ema` holds something else than tensors")
    return {str(name): value.detach() for name, value in found.items()}


def finished_iterations(file: WeightsFile) -> int:
    """-1 if not known. Checkpoints hold the number, from 0, of the last."""
    for place in (file.other, file.other.get("trainer")):
        if isinstance(place, Mapping) and type(place.get("iteration")) is int:
            return int(place["iteration"]) + 1
    return -1


def metrics_of_checkpoint(run: Path, name: str, sha256: str) -> str:
    """JSON of the metrics of a checkpoint's raw weights; "" where it was not evaluated.

    They are those that the run noted for a file of these contents: `model_final.pth` is a second
    name of the newest numbered checkpoint, and the evaluation may have been noted for that one.

    Raises:
        WeightsError: the manifest is damaged, or the file is not the one that the run wrote.
    """
    with fields_of(run / MANIFEST) as manifest:
        files = manifest.object("files")
        own = files.object(name)
        noted = own.text("sha256")
        same = [entry for entry in map(files.object, files.data) if entry.text("sha256") == sha256]
        evaluated = [entry for entry in (own, *same) if "figures" in entry.data]
        metrics = evaluated[0].object("figures").numbers() if evaluated else {}
    if noted not in ("", sha256):
        raise WeightsError(
            f"{run / name} is not the file that the run wrote (SHA-256 differs from "
            f"{MANIFEST}); take another with --checkpoint"
        )
    with fields_of(run / RESULTS) as results:
        is_trial = "no_result" in results.data  # of a few images
    return "" if is_trial else metrics_text(metrics)


def metrics_of_average(run: Path, iteration: int) -> str:
    """JSON of the metrics of the moving average after so many iterations; "" where there are none.

    `model_ema.pth` does not name its iteration and so has none: the same weights lie in
    `model_final.pth`, with --ema.

    Args:
        iteration: finished iterations; -1: not known.

    Raises:
        WeightsError: the results are damaged.
    """
    with fields_of(run / AVERAGE_RESULTS) as results:
        measured = results.object("measured").number("iteration")
        metrics = results.object("metrics").numbers()
    if iteration < 0 or measured != iteration or "no_result" in results.data:
        return ""
    return metrics_text(metrics)


@contextmanager
def fields_of(file: Path) -> Iterator[Fields]:
    """The fields of a JSON file of the run, none if it is missing; errors inside name the file."""
    try:
        yield Fields(read_json_object(file) if file.is_file() else {}, file.name)
    except ValueError as error:
        raise WeightsError(
            f"{file} is damaged ({printable(str(error))}); evaluate the run again, or remove it"
        ) from error


def metrics_text(metrics: Mapping[str, float]) -> str:
    """JSON of the finite metrics but those of an average, as many as a file's provenance holds."""
    kept = {
        printable(name): round(value, 2)
        for name, value in metrics.items()
        if math.isfinite(value) and not name.startswith("ema/")
    }
    while len(text := json.dumps(kept)) > MAX_TEXT:
        kept.popitem()
    return text if kept else ""


def read_revision(git: Path) -> str:
    """The git revision that a run noted last, and whether there were local changes; "" if none."""
    if not git.is_file():
        return ""
    last = git.read_text(errors="replace").rpartition("$ git rev-parse HEAD\n")[2]
    head, _, rest = last.partition("\n")
    status = rest.partition("$ git status --short\n")[2].partition("$ git diff HEAD")[0]
    known = len(head) in (40, 64) and all(c in "0123456789abcdef" for c in head)
    return head + (" with local changes" if status.strip() else "") if known else ""


if __name__ == "__main__":
    main()

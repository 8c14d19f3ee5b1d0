"""mode=export: a trained model as one file that runs without this framework.

Shapes: N images, H W pixels of the padded images, h w of the images, height width of the labels.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.utils import comm
from numpy.typing import NDArray
from tabulate import tabulate
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as symbolic_shapes

from panoptic_dl.core.classes import Classes
from panoptic_dl.core.environment import version
from panoptic_dl.core.files import atomic_write, read_json_object, sha256_of
from panoptic_dl.core.parallel import size_text
from panoptic_dl.core.run_folder import MANIFEST, find_weights
from panoptic_dl.core.settings import ExportSettings
from panoptic_dl.launch.session import accept
from panoptic_dl.models.export import ExportedModel
from panoptic_dl.runtime.session import PROPERTY, ExportMetadata, graph_inputs
from panoptic_dl.train.precision import compile_errors
from panoptic_dl.weights.load import load_model

FILES = {"onnx": "model.onnx", "pt2": "model.pt2", "aotinductor": "model.pt2"}
LARGEST = 8192  # pixels a side that a graph of any size takes
MOST = 64  # images of a batch, likewise
# Share of labels and differences of maps, relative to the largest value, that may change: other
# programs add in another order, and fp16 rounds. Scores are sums of many pixels, ten times as far.
BOUNDS = {"fp32": 1e-3, "fp16": 0.05}
Arrays = dict[str, NDArray[Any]]
Engine = Callable[[Arrays], Arrays]

logger = logging.getLogger(__name__)


def export(
    *,
    device: str,
    model: Any,
    mapper: Any,
    classes: Classes,
    weights: str | None,
    run_dir: str,
    name: str,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Write a model as `run_dir`/model.onnx or model.pt2, and compare the file with PyTorch.

    `mapper` is the model's test mapper; `settings` are fields of `ExportSettings`.

    Raises ValueError: the model cannot be written so, or what the file computes differs.
    """
    chosen = ExportSettings(**settings)
    if comm.get_world_size() > 1:
        raise ValueError("mode=export runs in one process: drop launch.num_gpus and the like")
    if weights is None:
        raise ValueError("mode=export needs weights=: the output folder of a run, or a file")
    if chosen.format == "onnx":
        require_extra("export", "onnx", "onnxscript", "onnxruntime")
    if chosen.format == "aotinductor" and None in (chosen.batch, chosen.height, chosen.width):
        raise ValueError(  # with any size, those of torch 2.15 compute something else
            "export.format=aotinductor is compiled for one size: give export.batch=, "
            "export.height= and export.width="
        )
    source = find_weights(weights)
    sha256 = sha256_of(source)
    load_model(model.eval(), source, mapper.image_format)
    metadata = _describe(model, mapper, classes, chosen)
    provenance: dict[str, Any] = {
        "run": name,
        "weights": source.name,
        "sha256": sha256,
        "panoptic_dl": version("panoptic-dl"),
        "torch": torch.__version__,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "results": _results_of(source, sha256),
    }
    metadata.provenance.update(provenance)
    accept()
    file = Path(run_dir, FILES[chosen.format])
    file.parent.mkdir(parents=True, exist_ok=True)
    cases = _cases(model, mapper.image_format, metadata) if chosen.check else []
    with torch.no_grad(), atomic_write(file) as temporary:
        program = _trace(model, mapper.image_format, metadata)
        _write(program, temporary, chosen.format, metadata)
        differences = _compare(temporary, chosen.format, metadata, cases)
    logger.info("Saved %s, %s", file, size_text(file.stat().st_size))
    return {"metrics": {**differences, "MB": file.stat().st_size / 1e6}}


def _results_of(checkpoint: Path, sha256: str) -> dict[str, Any] | None:
    """Dataset and metrics of the evaluation that its run has made of a checkpoint, if it has."""
    manifest = checkpoint.with_name(MANIFEST)
    for entry in read_json_object(manifest)["files"].values() if manifest.is_file() else ():
        if entry.get("sha256") == sha256 and "figures" in entry:
            return {"dataset": entry["split"]["dataset"], "metrics": entry["figures"]}
    return None


def require_extra(extra: str, *modules: str) -> None:
    """Raise ValueError, naming the extra to install, where one of its modules is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise ValueError(f'{missing[0]} is not installed: pip install "panoptic-dl[{extra}]"')


def _describe(
    model: Any, mapper: Any, classes: Classes, settings: ExportSettings
) -> ExportMetadata:
    stride = model.size_divisibility
    square = model.backbone.padding_constraints.get("square_size", 0)
    height, width = settings.height or square or None, settings.width or square or None
    for side, value in (("height", height), ("width", width)):
        if value and (value % stride or (square and value != square)):
            fitting = square or max(stride, round(value / stride) * stride)
            raise ValueError(
                f"export.{side}={value}: this network takes "
                f"{'squares of' if square else 'multiples of'} {square or stride} pixels, such as "
                f"export.{side}={fitting}"
            )
    resizes = mapper.augmentations.augs
    if any(not isinstance(each, ResizeShortestEdge) for each in resizes) or len(resizes) > 1:
        raise ValueError(
            "the test mapper does more than ResizeShortestEdge, which a file cannot repeat: change "
            "task.evaluation.loader.mapper.augmentations"
        )
    resize = None
    if resizes and resizes[0].short_edge_length[0]:
        resize = {"short": resizes[0].short_edge_length[0], "longest": resizes[0].max_size}
    pixels = [model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist()]
    if mapper.image_format == "BGR":
        pixels = [values[::-1] for values in pixels]
    names = ["stuff_area", "center_threshold", "nms_kernel", "top_k", "scale_offsets"]
    return ExportMetadata(
        task="panoptic" if hasattr(model, "segment") else "semantic",
        postprocess=settings.postprocess,
        classes=classes,
        label_divisor=getattr(model, "label_divisor", 1000),
        stride=stride,
        batch=settings.batch,
        height=height,
        width=width,
        resize=resize,
        precision=settings.precision,
        pixel_mean=pixels[0],
        pixel_std=pixels[1],
        parameters={each: getattr(model, each) for each in names if hasattr(model, each)},
        provenance={},
        opset=settings.opset,
    )


def _trace(model: Any, image_format: str, metadata: ExportMetadata) -> ExportedProgram:
    """The graph of a model by `torch.export`: one for all sizes that are not fixed."""
    dtype = torch.float16 if metadata.precision == "fp16" else torch.float32
    postprocess = metadata.postprocess
    graph = ExportedModel(model, image_format, postprocess=postprocess, dtype=dtype)
    stride = metadata.stride
    batch, height, width = metadata.batch or 2, metadata.height, metadata.width
    images = torch.zeros((batch, 3, height or 4 * stride, width or 6 * stride), dtype=torch.uint8)
    inputs = {"images": images, "image_size": torch.tensor(images.shape[2:])}
    dims: dict[int, Any] = {} if metadata.batch else {0: Dim("batch", min=1, max=MOST)}
    for axis, side in ((2, "height"), (3, "width")):
        if getattr(metadata, side) is None:
            dims[axis] = stride * Dim(f"{side}_in_strides", min=1, max=LARGEST // stride)
    if postprocess:
        inputs["output_size"] = torch.tensor([50, 75])
    shapes = {name: dims if name == "images" else None for name in inputs}
    try:
        # Oblivious: sizes of 1 are like all others, and the graph holds for them, too.
        with symbolic_shapes.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
            return torch.export.export(graph, (), inputs, dynamic_shapes=shapes)
    except Exception as error:  # of torch's tracer, of many kinds
        logger.debug("torch.export failed", exc_info=True)
        reason = str(error).strip().partition("\n")[0][:300]
        cure = f"export.batch=1 export.height={8 * stride} export.width={12 * stride}"
        fix = f"; fix what may be of any size: {cure}" if dims else ""
        raise ValueError(f"torch.export cannot follow this network{fix} ({reason})") from error


def _write(program: ExportedProgram, file: Path, kind: str, metadata: ExportMetadata) -> None:
    if kind == "pt2":
        torch.export.save(program, file, extra_files={PROPERTY: metadata.to_json()})
    elif kind == "aotinductor":
        with compile_errors("export.format=aotinductor"):
            options = {"aot_inductor.metadata": {PROPERTY: metadata.to_json()}}
            torch._inductor.aoti_compile_and_package(
                program, package_path=str(file), inductor_configs=options
            )
    else:
        for name in ("onnx_ir", "onnxscript"):  # they log each step of their optimizers
            logging.getLogger(name).setLevel(logging.WARNING)
        exported = torch.onnx.export(
            program,
            dynamo=True,
            opset_version=metadata.opset,
            output_names=_outputs(metadata),
            verbose=False,
        )
        assert exported is not None
        for node in exported.model.graph.all_nodes():
            node.metadata_props.clear()  # traces of stacks, with paths of this machine
        exported.model.metadata_props[PROPERTY] = metadata.to_json()
        exported.save(file, external_data=False)


def _outputs(metadata: ExportMetadata) -> list[str]:
    panoptic = metadata.task == "panoptic"
    if metadata.postprocess:
        return ["panoptic", "semantic", "thing_ids", "scores"] if panoptic else ["semantic"]
    return ["sem_seg", "center", "offset"] if panoptic else ["sem_seg"]


def _cases(model: Any, image_format: str, metadata: ExportMetadata) -> list[tuple[Arrays, Arrays]]:
    """Inputs of several sizes, and what PyTorch makes of them: the model as mode=eval calls it."""
    random = torch.Generator().manual_seed(0)
    stride, resize, cases = metadata.stride, metadata.resize, list[Any]()
    shapes: list[Any] = [(8 * stride, 12 * stride, 0, 1.0), (6 * stride, 5 * stride, 3, 1.5)]
    if resize:  # the test size, which may be larger than the crops that training saw
        sides = resize["short"], min(resize["longest"], 2 * resize["short"])
        shapes.append((*(-(-side // stride) * stride for side in sides), 1, 1.0))
    for rows, columns, cut, factor in shapes:
        height, width = metadata.height or rows, metadata.width or columns
        number = metadata.batch or max(1, 2 - len(cases))
        coarse = torch.rand((number, 3, -(-height // 8), -(-width // 8)), generator=random) * 255
        size = height - cut, width - cut
        images = F.interpolate(coarse, size, mode="bicubic").clamp(0, 255).byte()
        high, wide = round(size[0] * factor), round(size[1] * factor)
        inputs = graph_inputs(metadata, images.numpy(), (high, wide))
        ordered = images.flip(1) if image_format == "BGR" else images
        samples = [{"image": image, "height": high, "width": wide} for image in ordered]
        with torch.no_grad():
            cases.append((inputs, _reference(model, samples, metadata)))
    return cases


def _reference(model: Any, samples: list[dict[str, Any]], metadata: ExportMetadata) -> Arrays:
    if not metadata.postprocess:
        if metadata.task == "panoptic":
            model.predict_semantic = True  # so that logits are those of full size
        maps = model.network(model.preprocess(samples).tensor)
        return {n: m.numpy() for n, m in zip(_outputs(metadata), maps, strict=True)}
    outputs = model(samples)
    arrays = {"semantic": torch.stack([o["sem_seg"].argmax(dim=0) for o in outputs]).numpy()}
    if metadata.task == "panoptic":
        arrays["panoptic"] = torch.stack([o["panoptic_seg"][0] for o in outputs]).numpy()
        scores = [o["instances"].scores for o in outputs]
        arrays["scores"] = torch.nn.utils.rnn.pad_sequence(scores, batch_first=True).numpy()
    return arrays


def _compare(
    file: Path, kind: str, metadata: ExportMetadata, cases: list[tuple[Arrays, Arrays]]
) -> dict[str, float]:
    """Log how a file's output differs from PyTorch's, by engine and output; the largest of each.

    Of labels the share of pixels, of scores where all labels are equal, and of maps relative to the
    largest value. ValueError beyond `BOUNDS`.
    """
    if not cases:
        return {}
    bound, names = BOUNDS[metadata.precision], [n for n in _outputs(metadata) if n != "thing_ids"]
    rows, largest = [], dict[str, float]()
    for engine, run in engines(file, kind).items():
        for inputs, expected in cases:
            got = run(inputs)
            found = {name: _difference(name, got[name], expected[name]) for name in names}
            if found.get("panoptic"):
                del found["scores"]  # of other pixels
            size = " x ".join(str(side) for side in inputs["images"].shape)
            rows.append([engine, size, *(found.get(name, "") for name in names)])
            for name, value in found.items():
                key = f"{engine} {name}"
                largest[key] = max(largest.get(key, 0.0), value)
    table = tabulate(rows, ["engine", "images", *names], floatfmt=".2g")
    logger.info("Differences to PyTorch (shares of labels, values of others):\n%s", table)
    beyond = [
        f"{key} {value:.3g}"
        for key, value in largest.items()
        if not value <= bound * (10 if key.endswith("scores") else 1)
    ]
    if beyond:
        raise ValueError(
            f"the exported model differs from PyTorch by more than {bound:g}: {', '.join(beyond)}; "
            "nothing was saved. export.check=false would save it all the same"
        )
    return largest


def _difference(name: str, got: NDArray[Any], expected: NDArray[Any]) -> float:
    if name == "semantic":
        return float((got != expected).mean())
    if name == "panoptic":
        return 1 - min(_shared(got, expected), _shared(expected, got))
    if name == "scores":
        return float(np.abs(got[:, : expected.shape[1]] - expected).max(initial=0))
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def _shared(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Share of pixels in which each segment of `one` is the segment of `other` that it mostly is.

    Numbers do not count: where one instance is lost, all after it have others.
    """
    number, total = 0, 0
    for a, b in zip(one, other, strict=True):
        pairs, counts = np.unique(np.stack((a, b)).reshape(2, -1), axis=1, return_counts=True)
        total += counts.sum()
        order = np.lexsort((counts, pairs[0]))
        last = np.append(np.diff(pairs[0][order]) != 0, True)  # the largest part of each segment
        number += counts[order][last].sum()
    return float(number / total)


def engines(file: Path, kind: str = "onnx") -> dict[str, Engine]:
    """The programs that can run an exported file on this machine's CPU, by name."""
    if kind == "pt2":
        return {"torch.export": _of_torch(torch.export.load(file).module())}
    if kind == "aotinductor":
        return {"AOTInductor": _of_torch(torch._inductor.aoti_load_package(str(file)))}
    found = {"onnxruntime": _onnxruntime(file)}
    if find_spec("openvino") is not None:
        found["OpenVINO"] = _openvino(file)
    return found


def _of_torch(run: Callable[..., dict[str, Tensor]]) -> Engine:
    def compute(inputs: Arrays) -> Arrays:
        found = run(**{name: torch.from_numpy(each) for name, each in inputs.items()})
        return {name: each.numpy() for name, each in found.items()}

    return compute


def _onnxruntime(file: Path) -> Engine:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, inputs), strict=True))


def _openvino(file: Path) -> Engine:
    import openvino

    compiled = openvino.Core().compile_model(file, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda inputs: {  # where a cast falls away an output has several names
        name: array for output, array in compiled(inputs).items() for name in output.names
    }

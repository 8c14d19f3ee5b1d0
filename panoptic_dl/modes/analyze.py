"""mode=analyze: which branch limits a Panoptic-DeepLab, by a ground-truth ablation.

The network's maps of an image are replaced by those of the ground truth, branch by branch, before
they are merged (the oracle experiments of Cheng et al., arXiv:1910.04751 and 1911.10194). What it
saves, and shows as a table, a sentence and bars: "combinations" are rows of "truth" (the names of
the branches that were replaced), "metrics" in percent, "gain" in PQ over the first row, the model.

Legend: H W pixels of the output.
"""

import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from detectron2.evaluation import inference_context
from detectron2.utils import comm
from torch import nn

from panoptic_dl.core.files import write_text
from panoptic_dl.core.images import VOID_LABEL
from panoptic_dl.core.parallel import Progress
from panoptic_dl.core.run_folder import as_json
from panoptic_dl.evaluation.metrics import headline
from panoptic_dl.evaluation.panoptic import FN, FP, TP, StreamingPanopticEvaluator
from panoptic_dl.models.panoptic_deeplab import ImageMaps, PanopticDeepLab
from panoptic_dl.report.text import as_difference, as_text, markdown_table, metric_name
from panoptic_dl.visualize.charts import BLUE, GRID, RED, YELLOW
from panoptic_dl.weights.load import load_model

BRANCHES = ("semantic", "center", "offset")
# The model itself, then one branch at a time, two, and all.
COMBINATIONS = tuple(
    branches for count in range(len(BRANCHES) + 1) for branches in combinations(BRANCHES, count)
)

logger = logging.getLogger(__name__)


def analyze(
    *,
    device: str,
    model: nn.Module,
    dataset: str,
    loader: Iterable[list[dict[str, Any]]],
    make_evaluator: Callable[[], StreamingPanopticEvaluator],
    weights: str | None,
    predictions: str | None,
    looks: Mapping[str, Any],
    run_dir: str,
    name: str,
    unlabelled: str,
    image_format: str = "RGB",
) -> dict[str, Any]:
    """Measure PQ with semantic prediction, centers and offsets replaced by the ground truth.

    All eight combinations are measured at once: the network gets an image once, its maps are merged
    eight times. Prints a table; saves `analysis.json` and `analysis.png` in `run_dir`.

    Args:
        loader: batches of samples of the whole split with "truth", see `panoptic_dl.data.mapper`;
            of several processes each has its share.
        make_evaluator: makes an evaluator of panoptic quality, one for each combination.
        predictions, looks: of `mode=eval`; must be None, and one scale without flip.
        unlabelled: what pixels without label are where semantic ground truth is used, "predicted"
            or "void".

    Returns:
        On the main process: `metrics` (PQ of the model, then of each combination, in percent) and
        what `analysis.json` has; {} elsewhere.

    Raises ValueError for arguments that do not go together, and for weights that do not fit.
    """
    if not isinstance(model, PanopticDeepLab):
        raise ValueError(
            "mode=analyze replaces centers and offsets, which task=semantic has none of: choose "
            "task=panoptic, or mode=eval"
        )
    if predictions is not None:
        raise ValueError("mode=analyze needs a network, not predictions=FOLDER: give weights=FILE")
    if looks != {"scales": [1.0], "flip": False}:
        raise ValueError(
            "mode=analyze looks at each image once: leave out evaluation.scales and evaluation.flip"
        )
    if unlabelled not in ("predicted", "void"):
        raise ValueError(f"mode.unlabelled={unlabelled} is unknown; choose predicted or void")
    if weights is None:
        raise ValueError(
            "mode=analyze needs weights=FILE (.safetensors, .pth or .pkl) or a run folder, such as "
            "weights=outputs/NAME/TIME/model_final.pth"
        )
    load_model(model, weights, image_format)
    model.to(device)
    model.predict_semantic = model.predict_instances = False  # panoptic maps are all that is needed
    evaluators = [make_evaluator() for _ in COMBINATIONS]
    for evaluator in evaluators:
        evaluator.reset()
    total = len(loader)  # type: ignore[arg-type]
    progress = Progress("analyzed", total, shown=comm.is_main_process())
    with progress, inference_context(model), torch.no_grad():
        for batch in loader:
            outputs = _predict(model, batch, unlabelled)
            for evaluator, of_combination in zip(evaluators, outputs, strict=True):
                evaluator.process(batch, of_combination)
            progress.add(len(batch))
    results = [evaluator.evaluate() for evaluator in evaluators]  # collective
    if not comm.is_main_process():
        return {}
    rows: list[dict[str, Any]] = []
    for branches, result, evaluator in zip(COMBINATIONS, results, evaluators, strict=True):
        assert evaluator.counts is not None
        numbers = evaluator.counts.sum(0).tolist()
        segments = {"matched": numbers[TP], "missed": numbers[FN], "wrong": numbers[FP]}
        metrics = headline(result or {})
        gain = metrics["PQ"] - (rows[0]["metrics"] if rows else metrics)["PQ"]
        rows.append(
            {"truth": list(branches), "metrics": metrics, "segments": segments, "gain": gain}
        )
    analysis = {
        "name": name,
        "dataset": dataset,
        "num_images": len(loader.dataset),  # type: ignore[attr-defined]
        "weights": weights,
        "unlabelled": unlabelled,
        "combinations": rows,
    }
    folder = Path(run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(as_json(analysis), indent=2, allow_nan=False)
    write_text(folder / "analysis.json", text + "\n")
    draw_analysis(analysis, folder / "analysis.png")
    logger.info("%s", analysis_text(analysis))
    names = ["PQ", *(f"PQ with true {' + '.join(branches)}" for branches in COMBINATIONS[1:])]
    metrics = {name: row["metrics"]["PQ"] for name, row in zip(names, rows, strict=True)}
    return {"metrics": metrics, **analysis}


def _predict(
    model: PanopticDeepLab, batch: list[dict[str, Any]], unlabelled: str
) -> list[list[dict[str, Any]]]:
    """For each of `COMBINATIONS` the model's outputs for a batch: "panoptic_seg" alone.

    Pixels without label keep their predicted class, or have none, if `unlabelled` is "void".
    """
    keep_unlabelled = unlabelled == "predicted"
    images = model.preprocess(batch)
    maps = model.network(images.tensor)
    found: list[list[dict[str, Any]]] = [[] for _ in COMBINATIONS]
    per_image = zip(*maps, images.image_sizes, batch, strict=True)
    for sem_seg, center, offset, size, sample in per_image:
        resized = model.resize_maps(sem_seg, center, offset, size, sample)
        truth = type(sample["truth"])(*(map_.to(model.device) for map_ in sample["truth"]))
        outputs = model.merge([_replace(resized, truth, b, keep_unlabelled) for b in COMBINATIONS])
        for branches, output, of_combination in zip(COMBINATIONS, outputs, found, strict=True):
            if "semantic" in branches and not keep_unlabelled:
                panoptic, _ = output["panoptic_seg"]
                output["panoptic_seg"] = (panoptic.masked_fill(~truth.labeled, VOID_LABEL), None)
            of_combination.append(output)
    return found


def _replace(
    maps: ImageMaps, truth: Any, branches: Collection[str], keep_unlabelled: bool
) -> ImageMaps:
    """Replace maps of `branches` by the ground truth; what it does not say stays as predicted."""
    classes, center, offset = maps.classes, maps.center, maps.offset
    if "semantic" in branches:
        known = truth.labeled if keep_unlabelled else torch.ones_like(truth.labeled)
        classes = torch.where(known, truth.classes, classes)
    if "center" in branches:
        center = truth.center
    if "offset" in branches:
        offset = torch.where(truth.has_offset, truth.offset, offset)
    return ImageMaps(classes, None, center, offset)


METRICS = ("PQ", "SQ", "RQ", "PQ_th", "PQ_st")
SMALL = 0.05  # PQ that a table with one digit would not show

COLORS = {"semantic": BLUE, "center": YELLOW, "offset": RED}
BAR, MODEL_BAR, ALL_BAR = "#8fa3b8", "#3a4653", "#5f8f6b"


def analysis_text(analysis: Mapping[str, Any]) -> str:
    """Circumstances, table and conclusion."""
    void = ", which has no class where unlabelled" if analysis["unlabelled"] == "void" else ""
    return "\n".join(
        [
            f"{analysis['name']} on {analysis['dataset']} ({analysis['num_images']} images), "
            f"predictions replaced by the truth{void}:",
            _table(analysis["combinations"]),
            _conclusion(analysis["combinations"]),
        ]
    )


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A combination a line: what is ground truth in it, its metrics, the gain in PQ."""
    lines = []
    for row in rows:
        marks = ["truth" if branch in row["truth"] else "" for branch in BRANCHES]
        values = [as_text(row["metrics"][name]) for name in METRICS]
        lines.append([*marks, *values, as_difference(row["gain"]) if row["truth"] else ""])
    headings = [*BRANCHES, *map(metric_name, METRICS), "gain"]
    return markdown_table(headings, lines, "c" * len(BRANCHES) + "r" * (len(METRICS) + 1))


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which branch gains most when it alone is replaced by ground truth."""
    gains = {row["truth"][0]: row["gain"] for row in rows if len(row["truth"]) == 1}
    if not all(map(math.isfinite, gains.values())):
        return "PQ cannot be computed: no image has a segment."
    ranked = sorted(gains, key=lambda branch: -gains[branch])
    listed = ", ".join(f"{branch} {as_difference(gains[branch])}" for branch in ranked)
    text = (
        f"The {ranked[0]} branch limits this model: its truth alone gains most ({listed} PQ)."
        if gains[ranked[0]] >= SMALL
        else f"No branch's truth alone gains PQ ({listed}): look at the pairs."
    )
    top = rows[-1]["metrics"]["PQ"]
    if top < 100 - SMALL:
        text += f" With all three true PQ is {top:.1f}; docs/how-to/analysis.md says what is left."
    return text


def draw_analysis(analysis: Mapping[str, Any], file: Path) -> None:
    """Write a PNG: bars of PQ, each named by the branches that ground truth replaces."""
    from matplotlib.figure import Figure

    rows = analysis["combinations"]
    values = [row["metrics"]["PQ"] for row in rows]
    figure = Figure(figsize=(10, 4.6), dpi=130, layout="constrained")
    axes = figure.add_subplot()
    colors = [MODEL_BAR, *(COLORS.get("".join(row["truth"]), BAR) for row in rows[1:-1]), ALL_BAR]
    lengths = [pq if math.isfinite(pq) else 0 for pq in values]
    bars = axes.barh(range(len(rows)), lengths, color=colors, height=0.62)
    texts = []
    for row, pq in zip(rows, values, strict=True):
        things, stuff = (as_text(row["metrics"][name]) for name in ("PQ_th", "PQ_st"))
        gain = f" ({as_difference(row['gain'])})" if row["truth"] else ""
        texts.append(f"{as_text(pq)}{gain}: things {things}, stuff {stuff}")
    axes.bar_label(bars, texts, padding=5, fontsize=9)
    names = [f"true {' + '.join(row['truth'])}" if row["truth"] else "the model" for row in rows]
    axes.set_yticks(range(len(rows)), names, fontsize=9)
    axes.invert_yaxis()
    axes.axvline(lengths[0], color=MODEL_BAR, lw=1, ls=(0, (4, 3)), zorder=3)
    axes.set_xlim(0, 140)  # room for the texts
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color=GRID)
    axes.set_axisbelow(True)
    title = "PQ where predictions are replaced by the ground truth"
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold")
    of = f"{analysis['name']} on {analysis['dataset']} ({analysis['num_images']} images)"
    axes.set_xlabel(f"PQ in %: {of}", fontsize=9)
    figure.savefig(file)

"""The official evaluators, made fit for a library, for `evaluation.official=true`.

| class: Official...Evaluator | by | task of the results: metrics |
| --- | --- | --- |
| Panoptic | panopticapi | panoptic_seg: PQ SQ RQ, PQ_th SQ_th RQ_th, PQ_st SQ_st RQ_st |
| CityscapesSemantic | cityscapesscripts | sem_seg: IoU iIoU IoU_sup iIoU_sup |
| CityscapesInstance | cityscapesscripts | segm: AP AP50 |
| COCOInstance | pycocotools | bbox, segm: AP AP50 AP75 APs APm APl, AP-<class> |
| Semantic | Detectron2 | sem_seg: mIoU fwIoU mACC pACC, IoU-<class> ACC-<class> |

All work inside Detectron2's evaluators. Cityscapes' scripts were written for the command line: they
exit the process on errors, print pages, and write into the working folder. Here errors become
exceptions, pages go to the log (level DEBUG), and nothing is written outside a temporary folder.
They run after our evaluators, which have found every label readable and every image predicted.

Shapes: N instances, K classes, H W pixels.
"""

import copy
import itertools
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from cityscapesscripts.evaluation import evalInstanceLevelSemanticLabeling as instance_script
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import (
    CityscapesInstanceEvaluator,
    CityscapesSemSegEvaluator,
    COCOEvaluator,
    COCOPanopticEvaluator,
    SemSegEvaluator,
)
from detectron2.structures import Instances
from detectron2.utils import comm
from panopticapi.evaluation import pq_compute_single_core
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.files import read_json
from panoptic_dl.core.images import SemanticLabelReader, ids_to_colors, read_panoptic_ids
from panoptic_dl.evaluation.cityscapes_semantic import EVALUATED, to_label_ids
from panoptic_dl.evaluation.coco_instances import KINDS, NAMES, panoptic_instances
from panoptic_dl.evaluation.metrics import Results, percentages
from panoptic_dl.evaluation.semantic import predicted_labels

logger = logging.getLogger(__name__)

TaskResults = dict[str, dict[str, float]]


class _OfDataset:
    """An evaluator of Detectron2 that is made of nothing but a `dataset` of its catalogs."""

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)  # type: ignore[call-arg]


class OfficialPanopticEvaluator(_OfDataset, COCOPanopticEvaluator):
    """PQ, SQ and RQ over all classes, things (`_th`) and stuff (`_st`), in percent.

    The measure and the averages are panopticapi's. Its driver is replaced, because it divides by
    zero when a split has no thing, or no stuff, at all, and leaves one process per core of the
    machine behind. Detectron2's `process` is kept, but works on a copy: on the CPU it adds 1 to the
    model's own output.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "panoptic_seg" of each output: (H, W) ids and, or None, the list of segments."""
        copies = [{"panoptic_seg": copy.deepcopy(output["panoptic_seg"])} for output in outputs]
        super().process(inputs, copies)

    def evaluate(self) -> TaskResults | None:
        """Compute the results of all processes; None but in the main process."""
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = {item["image_id"]: item for item in itertools.chain(*gathered)}
        truth_folder = self._metadata.panoptic_root
        truth = read_json(Path(self._metadata.panoptic_json))
        categories = {category["id"]: category for category in truth["categories"]}
        pairs = []
        with tempfile.TemporaryDirectory(prefix="panoptic_eval_") as folder:
            for number, annotation in enumerate(truth["annotations"]):
                _complete(annotation, truth_folder)
                prediction = predictions[annotation["image_id"]]
                # Detectron2 names the file as the image, whose folder it forgets.
                name = f"{number}.png"
                Path(folder, name).write_bytes(prediction["png_string"])
                pairs.append((annotation, prediction | {"file_name": name}))
            # Its own reader knows neither palettes nor orientations.
            reader = SimpleNamespace(open=lambda file: ids_to_colors(read_panoptic_ids(file)))
            with patch("panopticapi.evaluation.Image", reader), redirect_stdout(StringIO()):
                statistics = pq_compute_single_core(0, pairs, truth_folder, folder, categories)
        averages: dict[str, float] = {}
        for suffix, things in (("", None), ("_th", True), ("_st", False)):
            try:
                found, _ = statistics.pq_average(categories, isthing=things)
            except ZeroDivisionError:  # no such class in ground truth or predictions
                found = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
            averages |= {name.upper() + suffix: float(found[name]) for name in ("pq", "sq", "rq")}
        return {"panoptic_seg": percentages(averages)}


def _complete(annotation: dict[str, Any], folder: str) -> None:
    """Add what the script needs and datasets may lack: `iscrowd` 0, pixels as area."""
    for segment in annotation["segments_info"]:
        segment.setdefault("iscrowd", 0)
        if segment.get("area") is None:
            ids = read_panoptic_ids(Path(folder, annotation["file_name"]))  # the last is kept
            segment["area"] = int((ids == segment["id"]).sum())


def _run_script(evaluate: Callable[[], TaskResults | None]) -> TaskResults | None:
    """Call a script of Cityscapes: its output goes to the log, its exit becomes an exception."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            results = evaluate()
    except SystemExit as exit_:
        reason = printed.getvalue().rpartition("ERROR: ")[2].strip()
        raise EvaluationError(f"the official Cityscapes script gave up: {reason}") from exit_
    logger.debug("%s", printed.getvalue())
    return results


class OfficialCityscapesSemanticEvaluator(_OfDataset, CityscapesSemSegEvaluator):
    """Intersection over union, `sem_seg.IoU` (the mIoU of papers), iIoU and those of categories.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores of train ids, or (H, W)
    train ids, of which all others than 0..18 mean that the pixel has none.
    """

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Write label ids for the script; `unlabeled` where a pixel has no class.

        The script knows no 255: its array of counts has no place for it.
        """
        for item, output in zip(inputs, outputs, strict=True):
            classes = output["sem_seg"]
            if classes.ndim == 2:
                labels = to_label_ids(predicted_labels(classes, len(EVALUATED)))
                name = f"{Path(item['file_name']).stem}_pred.png"
                Image.fromarray(labels).save(Path(self._temp_dir, name))
            else:
                super().process([item], [output])

    def evaluate(self) -> TaskResults | None:
        return _run_script(super().evaluate)


class OfficialCityscapesInstanceEvaluator(_OfDataset, CityscapesInstanceEvaluator):
    """Average precision of masks, `segm.AP` and `segm.AP50`.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids), `scores`.
    """

    def evaluate(self) -> TaskResults | None:
        average = partial(_average_precisions, instance_script.evaluateMatches)
        with (
            # It writes matches.json into the working folder (and cannot, with NumPy 2), and a cache
            # of the ground truth into the temporary one: both are for later runs by hand.
            patch.object(instance_script, "writeDict2JSON", lambda content, file: None),
            patch.object(instance_script, "evaluateMatches", average),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return _run_script(super().evaluate)


def _average_precisions(
    official: Callable[[Any, Any], np.ndarray], matches: dict[str, Any], args: Any
) -> np.ndarray:
    """The script's average precisions (1, classes, overlaps); 0 where it raises IndexError.

    It does when all instances of a class are missed and all predictions of it are ignored.
    """
    table = np.zeros((1, len(args.instLabels), len(args.overlaps)))
    for row, label in enumerate(args.instLabels):
        for column, overlap in enumerate(args.overlaps):
            single = copy.copy(args)
            single.instLabels, single.overlaps = [label], np.array([overlap])
            with suppress(IndexError):
                table[:, row, column] = official(matches, single)[:, 0, 0]
    return table


class OfficialCOCOInstanceEvaluator(COCOEvaluator):
    """`bbox.AP` and `segm.AP`, and those at single overlaps, by area and by class.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_boxes`, `pred_classes` (counted
    from 0 among the things) and `scores`. An image without them counts as one without predictions;
    Detectron2 forgets it, and reports nothing when that is so for all images. No predictions at all
    are an AP of 0 where there is something to find, as the official script has it, and not NaN.
    """

    def __init__(self, dataset: str) -> None:
        """A panoptic dataset; without `json_file` in its metadata one is made of its labels."""
        panoptic = MetadataCatalog.get(dataset)
        # Panoptic metadata name things and stuff; here the names must be those of things.
        things = sorted(panoptic.thing_dataset_id_to_contiguous_id.values())
        with tempfile.TemporaryDirectory(prefix="panoptic_instances_") as folder:
            file = panoptic.get("json_file")
            if file is None:
                file = f"{folder}/instances.json"
                Path(file).write_text(json.dumps(_as_coco(dataset)))
            metadata = Metadata(
                name=dataset,
                json_file=file,
                thing_classes=[panoptic.thing_classes[index] for index in things],
                thing_dataset_id_to_contiguous_id=panoptic.thing_dataset_id_to_contiguous_id,
            )
            with (
                patch.object(MetadataCatalog, "get", lambda name: metadata),
                redirect_stdout(StringIO()),
            ):
                super().__init__(dataset, tasks=("bbox", "segm"), use_fast_impl=False)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "instances" of each output, or none."""
        nothing = Instances((0, 0), scores=torch.zeros(0))
        found = [{"instances": output.get("instances", nothing)} for output in outputs]
        super().process(inputs, found)

    def evaluate(self, img_ids: list[int] | None = None) -> TaskResults:
        """Compute the results; NaN where the dataset has no things, where Detectron2 raises."""
        if not self._metadata.thing_dataset_id_to_contiguous_id:
            return {kind: dict.fromkeys(NAMES, float("nan")) for kind in KINDS}
        printed = StringIO()
        with redirect_stdout(printed):
            results: TaskResults = super().evaluate(img_ids)
        logger.debug("%s", printed.getvalue())
        return results

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # nothing was predicted
            empty = COCO()
            empty.dataset = self._coco_api.dataset | {"annotations": []}
            empty.createIndex()
            coco_eval = COCOeval(self._coco_api, empty, iou_type)
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        return super()._derive_coco_results(coco_eval, iou_type, class_names)


class OfficialSemanticEvaluator(SemSegEvaluator):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and the IoU of each class.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores, or (H, W) classes. A
    class that is not in the ground truth of any image does not count, even where it is predicted
    (Cityscapes' script counts it as 0); its own IoU is NaN.
    """

    def __init__(self, dataset: str) -> None:
        """`dataset`: in Detectron2's catalogs; metadata `stuff_classes` names all K classes."""
        records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
        metadata = MetadataCatalog.get(dataset)
        read = SemanticLabelReader(len(metadata.stuff_classes), metadata.ignore_label)
        # Detectron2 wants a label file for each image; the image's own name is as good, for it only
        # hands it to the loading function.
        named = [{"file_name": name, "sem_seg_file_name": name} for name in records]
        with patch.object(DatasetCatalog, "get", lambda name: named):
            super().__init__(
                dataset,
                sem_seg_loading_fn=lambda name, dtype: read(records[name]).astype(dtype),
            )
        self._compute_boundary_iou = False  # a second metric that nobody asked for, and slow

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "sem_seg", scores or classes, of outputs; EvaluationError where a pixel has none."""
        for item, output in zip(inputs, outputs, strict=True):
            scores = output["sem_seg"]
            if scores.ndim == 2:
                classes = predicted_labels(scores, self._num_classes)
                if (classes == self._num_classes).any():
                    raise EvaluationError(
                        f"image {item['file_name']}: a pixel has no class, which Detectron2's "
                        "evaluator cannot express: its prediction is always one of the classes; "
                        "leave out evaluation.official=true, ours count it as missed"
                    )
                index = torch.from_numpy(classes.astype(np.int64)).unsqueeze(0)
                scores = torch.zeros(self._num_classes, *classes.shape, dtype=torch.uint8)
                scores = scores.scatter_(0, index, 1)
            super().process([item], [{"sem_seg": scores}])

    def encode_json_sem_seg(self, sem_seg: np.ndarray, input_file_name: str) -> list[Any]:
        """Keep no predictions: they serve a file that is not written."""
        return []

    def evaluate(self) -> TaskResults | None:
        with np.errstate(divide="ignore", invalid="ignore"):  # labels that are void everywhere
            return super().evaluate()


def _as_coco(dataset: str) -> dict[str, Any]:
    """An instances file in COCO's format, categories with the ids of the dataset."""
    metadata = MetadataCatalog.get(dataset)
    things = metadata.thing_dataset_id_to_contiguous_id
    dataset_ids = {index: category for category, index in things.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for record in DatasetCatalog.get(dataset):
        image, (size, instances) = record["image_id"], panoptic_instances(record, dataset_ids)
        images.append({"id": image, "height": size[0], "width": size[1]})
        for instance in instances:
            number = len(annotations) + 1  # a match with 0 counts as none
            category = dataset_ids[instance["category_id"]]
            own = {"id": number, "image_id": image, "category_id": category}
            annotations.append(instance | own)
    names = metadata.thing_classes
    categories = [{"id": category, "name": names[index]} for category, index in things.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


class _Pair(NamedTuple):
    """One number as our evaluators and the official ones return it, in percent."""

    task: str
    name: str
    own: float
    official: float
    difference: float  # 0 when both are undefined, NaN when one is
    agrees: bool  # within rounding: 1e-12 of counts and ratios, 1e-9 of AP


def pair_up(own: Results, official: Results) -> list[_Pair]:
    """All numbers that both have, in the official order; EvaluationError if a task has none."""
    pairs = []
    for task, numbers in official.items():
        ours = own.get(task, {})
        shared = [name for name in numbers if name in ours]
        if not shared:
            raise EvaluationError(f"the official evaluators report {task}, ours do not")
        rounding = 1e-7 if task in ("bbox", "segm") else 1e-10  # percent
        for name in shared:
            mine, theirs = float(ours[name]), float(numbers[name])
            difference = 0.0 if math.isnan(mine) and math.isnan(theirs) else mine - theirs
            pairs.append(_Pair(task, name, mine, theirs, difference, abs(difference) <= rounding))
    return pairs


def require_agreement(pairs: list[_Pair]) -> None:
    """Raise `EvaluationError` that names the numbers which differ beyond rounding."""
    odd = [pair for pair in pairs if not pair.agrees]
    if odd:
        names = ", ".join(
            f"{pair.task}.{pair.name} {pair.own:.12g} (official {pair.official:.12g})"
            for pair in odd[:5]
        )
        raise EvaluationError(
            f"{len(odd)} of {len(pairs)} metrics differ from the official evaluators': {names}. "
            "Where areas in the panoptic JSON are wrong (num_wrong_areas in results.json), the "
            "official ones trust them: prepare the dataset again; else please report this as a bug"
        )

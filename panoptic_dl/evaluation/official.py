"""The official evaluators, made fit for a library, for `evaluation.official=true`.

| class: Official...Evaluator | by | task of the results: metrics |
| --- | --- | --- |
| Panoptic | panopticapi | panoptic_seg: PQ SQ RQ, PQ_th SQ_th RQ_th, PQ_st SQ_st RQ_st |
| CityscapesSemantic | cityscapesscripts | sem_seg: IoU iIoU IoU_sup iIoU_sup |
| CityscapesInstance | cityscapesscripts | segm: AP AP50 |
| COCOInstance | pycocotools | bbox, segm: AP AP50 AP75 APs APm APl, AP-<class> |
| PanopticInstance | pycocotools | the same, the ground truth being panoptic labels |
| Semantic | Detectron2 | sem_seg: mIoU fwIoU mACC pACC, IoU-<class> ACC-<class> |

All work inside Detectron2's evaluators. Cityscapes' scripts were written for the command line: they
exit the process on errors, print pages, and write into the working folder. Here errors become
exceptions, pages go to the log (level DEBUG), and nothing is written outside a temporary folder.
They expect a prediction for every label below `gt_dir`.

Shapes: N instances, K classes, H W pixels.
"""

import copy
import itertools
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
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
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from panopticapi.evaluation import PQStat, pq_compute_single_core
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_dl.core.errors import EvaluationError
from panoptic_dl.core.images import SemanticLabelReader, find_unreadable, read_panoptic_ids
from panoptic_dl.evaluation.cityscapes_semantic import (
    EVALUATED,
    find_labels,
    image_id,
    to_label_ids,
)
from panoptic_dl.evaluation.coco_instances import (
    KINDS,
    NAMES,
    PanopticTruth,
)
from panoptic_dl.evaluation.metrics import Results, percentages
from panoptic_dl.evaluation.semantic import predicted_labels

logger = logging.getLogger(__name__)
# Detectron2 logs all classes in one line as Python writes dictionaries.
_details = logging.getLogger(f"{__name__}.details")
_details.setLevel(logging.WARNING)

TaskResults = dict[str, dict[str, float]]


class OfficialPanopticEvaluator(COCOPanopticEvaluator):
    """PQ, SQ and RQ over all classes, things (`_th`) and stuff (`_st`), in percent.

    The measure and the averages are panopticapi's. Its driver is replaced, because it divides by
    zero when a split has no thing, or no stuff, at all, leaves one process per core of the machine
    behind, and names neither the file nor the remedy when a prediction is missing. Detectron2's
    `process` is kept, but works on a copy: on the CPU it adds 1 to the model's own output.
    """

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "panoptic_seg" of each output: (H, W) ids and, or None, the list of segments."""
        copies = []
        for output in outputs:
            panoptic, segments = output["panoptic_seg"]
            if segments is not None:
                segments = [dict(segment) for segment in segments]
            copies.append({"panoptic_seg": (panoptic.clone(), segments)})
        super().process(inputs, copies)

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the results of all processes; None but in the main process.

        Raises:
            EvaluationError: an image has no prediction, or the ground truth contradicts itself.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = {item["image_id"]: item for item in itertools.chain(*gathered)}
        truth = json.loads(Path(self._metadata.panoptic_json).read_bytes())
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
        for annotation in truth["annotations"]:
            if annotation["image_id"] not in predictions:
                raise EvaluationError(
                    f"no prediction for image {annotation['image_id']} of "
                    f"{self._metadata.panoptic_json} ({len(predictions)} predictions for "
                    f"{len(truth['annotations'])} images): the whole split must be evaluated"
                )
            _complete(annotation, self._metadata.panoptic_root)
            # Detectron2 names the file as the image, whose folder it forgets.
            own_name = {"file_name": f"{len(pairs)}.png"}
            pairs.append((annotation, predictions[annotation["image_id"]] | own_name))
        categories = {category["id"]: category for category in truth["categories"]}
        with tempfile.TemporaryDirectory(prefix="panoptic_eval_") as folder:
            for _, prediction in pairs:
                Path(folder, prediction["file_name"]).write_bytes(prediction["png_string"])
            statistics = _compare(pairs, self._metadata.panoptic_root, folder, categories)
        averages: dict[str, float] = {}
        for suffix, things in (("", None), ("_th", True), ("_st", False)):
            try:
                found, _ = statistics.pq_average(categories, isthing=things)
            except ZeroDivisionError:  # no such class in ground truth or predictions
                found = dict.fromkeys(("pq", "sq", "rq"), float("nan"))
            averages |= {name.upper() + suffix: float(found[name]) for name in ("pq", "sq", "rq")}
        return {"panoptic_seg": percentages(averages)}


def _complete(annotation: dict[str, Any], folder: str) -> None:
    """Add what the script needs and custom datasets may lack: `iscrowd` 0, pixels as area."""
    segments = annotation["segments_info"]
    for segment in segments:
        segment.setdefault("iscrowd", 0)
    without = [segment for segment in segments if "area" not in segment]
    if without:
        ids, areas = np.unique(
            read_panoptic_ids(Path(folder, annotation["file_name"])), return_counts=True
        )
        counted = dict(zip(ids.tolist(), areas.tolist(), strict=True))
        for segment in without:
            segment["area"] = counted.get(segment["id"], 0)


def _compare(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]],
    truth_folder: str,
    prediction_folder: str,
    categories: dict[int, dict[str, Any]],
) -> PQStat:
    """Match all segments, on as many threads as torch uses; NumPy and Pillow release the lock."""
    num_threads = max(1, min(torch.get_num_threads(), 8, len(pairs)))

    def compare(share: Iterable[Any]) -> PQStat:
        return pq_compute_single_core(0, list(share), truth_folder, prediction_folder, categories)

    total = PQStat()
    shares = [pairs[i::num_threads] for i in range(num_threads)]
    with redirect_stdout(StringIO()), ThreadPoolExecutor(num_threads) as pool:
        try:
            for statistics in pool.map(compare, shares):
                total += statistics
        except (OSError, SyntaxError) as error:
            truth = [Path(truth_folder, annotation["file_name"]) for annotation, _ in pairs]
            raise find_unreadable(truth, error) from error
    return total


class OfficialCityscapesSemanticEvaluator(CityscapesSemSegEvaluator):
    """Intersection over union, `sem_seg.IoU` (the mIoU of papers), iIoU and those of categories.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores of train ids, or (H, W)
    train ids, of which all others than 0..18 mean that the pixel has none.
    """

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)

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
        """Compute the results; None but in the main process.

        Raises:
            EvaluationError: an image of the split has no prediction, or the script gives up.
        """
        comm.synchronize()  # predictions of all processes are in the folder
        if comm.is_main_process():
            _require_predictions(
                self._metadata.gt_dir, "_gtFine_labelIds.png", self._temp_dir, ".png"
            )
        return _run(super().evaluate, self._metadata.gt_dir)


class OfficialCityscapesInstanceEvaluator(CityscapesInstanceEvaluator):
    """Average precision of masks, `segm.AP` and `segm.AP50`.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids), `scores`.
    """

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)

    def evaluate(self) -> TaskResults | None:
        """Compute the results; None but in the main process.

        Raises:
            EvaluationError: an image of the split has no prediction, or the script gives up.
        """
        comm.synchronize()  # predictions of all processes are in the folder
        if comm.is_main_process():
            _require_predictions(
                self._metadata.gt_dir, "_gtFine_instanceIds.png", self._temp_dir, ".txt"
            )
        official = instance_script.evaluateMatches
        with (
            # It writes matches.json into the working folder (and cannot, with NumPy 2), and a cache
            # of the ground truth into the temporary one: both are for later runs by hand.
            patch.object(instance_script, "writeDict2JSON", lambda content, file: None),
            patch.object(
                instance_script, "evaluateMatches", partial(_average_precisions, official)
            ),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return _run(super().evaluate, self._metadata.gt_dir)


def _average_precisions(
    official: Callable[[Any, Any], np.ndarray], matches: dict[str, Any], args: Any
) -> np.ndarray:
    """Average precisions by distance, class and overlap; also where the script raises IndexError.

    It does when all instances of a class are missed and all predictions of it are ignored (on void,
    groups or tiny instances): its list of scores is empty then. That is an average precision of 0.
    """
    try:
        return official(matches, args)
    except IndexError:
        pass
    rows = []
    for label in args.instLabels:
        for overlap in args.overlaps:
            single = copy.copy(args)
            single.instLabels, single.overlaps = [label], np.array([overlap])
            try:
                rows.append(official(matches, single)[:, 0, 0])
            except IndexError:
                rows.append(np.zeros_like(rows[0]) if rows else np.zeros(1))
    # (K * overlaps, distances) -> (distances, K, overlaps)
    return np.stack(rows, axis=1).reshape(-1, len(args.instLabels), len(args.overlaps))


def _require_predictions(truth: str, label: str, folder: str, suffix: str) -> None:
    """Raise `EvaluationError` unless each label file below `truth` has a prediction in `folder`."""
    predicted = {image_id(file.name) for file in Path(folder).glob(f"*_pred{suffix}")}
    labels = find_labels(truth, label)
    missing = [file for image, file in labels.items() if image not in predicted]
    if missing:
        raise EvaluationError(
            f"no prediction for {missing[0]} ({len(predicted)} predictions for {len(labels)} "
            "images): the official Cityscapes scripts need the whole split"
        )


def _run(evaluate: Callable[[], Any], truth: str) -> TaskResults | None:
    """Call an official script: its output goes to the log, its exit becomes an exception."""
    printed = StringIO()
    try:
        with redirect_stdout(printed):
            results = evaluate()
    except SystemExit as exit_:
        reason = printed.getvalue().rpartition("ERROR: ")[2].strip()
        raise EvaluationError(
            f"the official Cityscapes script gave up: {reason}. If it is about a label, unpack or "
            "prepare that file again"
        ) from exit_
    except (OSError, SyntaxError) as error:  # Pillow, on a damaged label
        raise find_unreadable(sorted(Path(truth).glob("*/*_gtFine_*Ids.png")), error) from error
    logger.debug("%s", printed.getvalue())
    if results is None:  # not the main process
        return None
    return {
        task: {name: float(value) for name, value in numbers.items()}
        for task, numbers in results.items()
    }


class OfficialCOCOInstanceEvaluator(COCOEvaluator):
    """`bbox.AP` and `segm.AP`, and those at single overlaps, by area and by class.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_boxes`, `pred_classes` (counted
    from 0 among the things) and `scores`. An image without them counts as one without predictions;
    Detectron2 forgets it, and reports nothing when that is so for all images. No predictions at all
    are an AP of 0 where there is something to find, as the official script has it, and not NaN.
    """

    def __init__(self, dataset: str) -> None:
        """Read the ground truth.

        Args:
            dataset: a panoptic dataset of Detectron2's catalogs whose metadata has `json_file`.
        """
        try:
            with redirect_stdout(StringIO()):
                super().__init__(dataset, tasks=("bbox", "segm"), use_fast_impl=False)
        except (KeyError, ValueError) as error:  # json.JSONDecodeError is a ValueError
            file = MetadataCatalog.get(dataset).json_file
            raise EvaluationError(
                f"{file} is no readable COCO instances file ({error}); fetch or prepare it again"
            ) from error
        # Panoptic metadata name things and stuff; here the names must be those of things.
        panoptic = MetadataCatalog.get(dataset)
        things = sorted(panoptic.thing_dataset_id_to_contiguous_id.values())
        self._metadata = Metadata(
            name=dataset,
            json_file=panoptic.json_file,
            thing_classes=[panoptic.thing_classes[index] for index in things],
            thing_dataset_id_to_contiguous_id=panoptic.thing_dataset_id_to_contiguous_id,
        )

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "instances" of each output, or none."""
        nothing = Instances(
            (0, 0),
            pred_boxes=Boxes(torch.zeros(0, 4)),
            scores=torch.zeros(0),
            pred_classes=torch.zeros(0, dtype=torch.long),
        )
        found = [{"instances": output.get("instances", nothing)} for output in outputs]
        super().process(inputs, found)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Compute the results; empty but in the main process."""
        printed = StringIO()
        with redirect_stdout(printed):
            results: dict[str, dict[str, float]] = super().evaluate(img_ids)
        logger.debug("%s", printed.getvalue())
        return results

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, class_names: list[str] | None = None
    ) -> dict[str, float]:
        if coco_eval is None:  # nothing was predicted
            empty = COCO()
            empty.dataset = {
                "images": self._coco_api.dataset["images"],
                "categories": self._coco_api.dataset["categories"],
                "annotations": [],
            }
            empty.createIndex()
            coco_eval = COCOeval(self._coco_api, empty, iou_type)
            coco_eval.evaluate()
            coco_eval.accumulate()
            coco_eval.summarize()
        results: dict[str, float] = super()._derive_coco_results(coco_eval, iou_type, class_names)
        return results


class OfficialSemanticEvaluator(SemSegEvaluator):
    """`sem_seg.mIoU`, frequency-weighted IoU, accuracies and the IoU of each class.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores, or (H, W) classes. A
    class that is not in the ground truth of any image does not count, even where it is predicted
    (Cityscapes' script counts it as 0); its own IoU is NaN.
    """

    def __init__(
        self, dataset: str, read_truth: Callable[[dict[str, Any]], np.ndarray] | None = None
    ) -> None:
        """Look up the dataset.

        Args:
            dataset: a name in Detectron2's catalogs; metadata `stuff_classes` names all K classes.
            read_truth: returns the label of a record of the dataset: (H, W), class or ignored; by
                default a `SemanticLabelReader`.
        """
        records = {record["file_name"]: record for record in DatasetCatalog.get(dataset)}
        # Detectron2 wants a label file for each image; the image's own name is as good, for it only
        # hands it to the loading function.
        truth = f"{dataset} with labels from its records"
        metadata = MetadataCatalog.get(dataset)
        read = read_truth or SemanticLabelReader(
            num_classes=len(metadata.stuff_classes), ignore_label=metadata.ignore_label
        )
        DatasetCatalog.register(
            truth, lambda: [{"file_name": name, "sem_seg_file_name": name} for name in records]
        )
        MetadataCatalog.get(truth).set(
            stuff_classes=metadata.stuff_classes, ignore_label=metadata.ignore_label
        )
        try:
            super().__init__(
                truth,
                sem_seg_loading_fn=lambda name, dtype: read(records[name]).astype(dtype),
            )
        finally:
            DatasetCatalog.remove(truth)
            MetadataCatalog.remove(truth)
        self._logger = _details
        self._compute_boundary_iou = False  # a second metric that nobody asked for, and slow

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Take "sem_seg" of each output; classes become scores, 1 for the class and 0 for others.

        Raises:
            EvaluationError: a pixel has no class.
        """
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

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Compute the results; None but in the main process."""
        with np.errstate(divide="ignore", invalid="ignore"):  # truth that is void everywhere
            results = super().evaluate()
        if results is None:
            return None
        return {"sem_seg": {name: float(value) for name, value in results["sem_seg"].items()}}


class OfficialPanopticInstanceEvaluator(OfficialCOCOInstanceEvaluator):
    """The same by pycocotools, which is given an instances file made for it."""

    def __init__(self, dataset: str) -> None:
        """Read every label of the dataset to make the ground truth."""
        metadata = MetadataCatalog.get(dataset)
        name = f"{dataset} with the instances of its panoptic labels"
        with tempfile.TemporaryDirectory(prefix="panoptic_instances_") as folder:
            file = Path(folder, "instances.json")
            file.write_text(json.dumps(_as_coco(PanopticTruth(dataset), metadata)))
            MetadataCatalog.get(name).set(
                json_file=str(file),
                thing_classes=metadata.thing_classes,
                thing_dataset_id_to_contiguous_id=metadata.thing_dataset_id_to_contiguous_id,
            )
            try:
                super().__init__(name)
            finally:
                MetadataCatalog.remove(name)

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Compute the results; NaN where the dataset has no things, where Detectron2 raises."""
        if not self._metadata.thing_dataset_id_to_contiguous_id:
            return {kind: dict.fromkeys(NAMES, float("nan")) for kind in KINDS}
        return super().evaluate(img_ids)


def _as_coco(truth: PanopticTruth, metadata: Metadata) -> dict[str, Any]:
    """An instances file in COCO's format, categories with the ids of the dataset."""
    things = metadata.thing_dataset_id_to_contiguous_id
    dataset_ids = {index: category for category, index in things.items()}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, of_image in truth.items():
        images.append({"id": image, "height": of_image.size[0], "width": of_image.size[1]})
        annotations += [
            {
                "id": len(annotations) + number,  # from 1: a match with 0 counts as none
                "image_id": image,
                "category_id": dataset_ids[instance.category],
                "iscrowd": int(instance.crowd),
                "area": instance.area,
                "bbox": instance.box,
                "segmentation": instance.segmentation,
            }
            for number, instance in enumerate(of_image.instances, start=1)
        ]
    names = metadata.thing_classes
    categories = [{"id": category, "name": names[index]} for category, index in things.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


class _Pair(NamedTuple):
    """One number as our evaluators and the official ones return it."""

    task: str
    name: str
    own: float
    official: float

    @property
    def difference(self) -> float:
        """Own minus official; 0 when both are undefined, NaN when one is."""
        if math.isnan(self.own) and math.isnan(self.official):
            return 0.0
        return self.own - self.official

    @property
    def agrees(self) -> bool:
        """Whether both agree within rounding: 1e-12 of counts and ratios, 1e-9 of AP."""
        percent_tolerance = 1e-7 if self.task in ("bbox", "segm") else 1e-10
        return abs(self.difference) <= percent_tolerance


def pair_up(own: Results, official: Results) -> list[_Pair]:
    """Pair all numbers that both have, in the order of the official ones.

    Raises:
        EvaluationError: an official task or none of its numbers is among our own.
    """
    pairs = []
    for task, numbers in official.items():
        ours = own.get(task, {})
        shared = [
            _Pair(task, name, float(ours[name]), float(value))
            for name, value in numbers.items()
            if name in ours
        ]
        if not shared:
            raise EvaluationError(f"the official evaluators report {task}, ours do not")
        pairs += shared
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
            f"{len(odd)} of {len(pairs)} figures differ from the official evaluators': {names}. "
            "Where areas in the panoptic JSON are wrong (num_wrong_areas in results.json), the "
            "official ones trust them: prepare the dataset again; else please report this as a bug"
        )

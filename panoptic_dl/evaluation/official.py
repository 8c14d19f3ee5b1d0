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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import redirect_stdout, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
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
from panoptic_dl.evaluation.coco_instances import KINDS, NAMES, PanopticTruth
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

    def evaluate(self) -> TaskResults | None:
        """Compute the results of all processes; None but in the main process.

        Raises:
            EvaluationError: an image has no prediction, or the ground truth contradicts itself.
        """
        comm.synchronize()
        gathered = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        predictions = {item["image_id"]: item for item in itertools.chain(*gathered)}
        file, truth_folder = self._metadata.panoptic_json, self._metadata.panoptic_root
        truth = json.loads(Path(file).read_bytes())
        categories = {category["id"]: category for category in truth["categories"]}
        pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
        with tempfile.TemporaryDirectory(prefix="panoptic_eval_") as folder:
            for annotation in truth["annotations"]:
                image = annotation["image_id"]
                if image not in predictions:
                    raise _no_prediction(
                        f"image {image} of {file}", len(predictions), len(truth["annotations"])
                    )
                _complete(annotation, truth_folder)
                # Detectron2 names the file as the image, whose folder it forgets.
                prediction = predictions[image] | {"file_name": f"{len(pairs)}.png"}
                Path(folder, prediction["file_name"]).write_bytes(prediction["png_string"])
                pairs.append((annotation, prediction))
            # On as many threads as torch uses: NumPy and Pillow release Python's lock.
            num_threads = max(1, min(torch.get_num_threads(), 8, len(pairs)))
            shares = [(0, pairs[i::num_threads]) for i in range(num_threads)]
            folders = truth_folder, folder, categories
            statistics = PQStat()
            with redirect_stdout(StringIO()), ThreadPoolExecutor(num_threads) as pool:
                try:
                    for of_share in pool.map(
                        lambda share: pq_compute_single_core(*share, *folders), shares
                    ):
                        statistics += of_share
                except (OSError, SyntaxError) as error:
                    files = [Path(truth_folder, annotation["file_name"]) for annotation, _ in pairs]
                    raise find_unreadable(files, error) from error
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
    if any("area" not in segment for segment in segments):
        ids = read_panoptic_ids(Path(folder, annotation["file_name"]))
        found, counts = np.unique(ids, return_counts=True)
        areas = dict(zip(found.tolist(), counts.tolist(), strict=True))
        for segment in segments:
            segment.setdefault("area", areas.get(segment["id"], 0))


def _no_prediction(what: object, num_predictions: int, num_images: int) -> EvaluationError:
    return EvaluationError(
        f"no prediction for {what} ({num_predictions} predictions for {num_images} images): the "
        "whole split must be evaluated"
    )


class _CityscapesScript:
    """What the evaluators by Cityscapes' scripts share; comes before Detectron2's evaluator.

    The output of a script goes to the log, its exit becomes an exception.
    """

    labels: ClassVar[str]  # ends of the names of its labels, and of its predictions
    suffix: ClassVar[str]

    def __init__(self, dataset: str) -> None:
        super().__init__(dataset)  # type: ignore[call-arg]

    def evaluate(self) -> TaskResults | None:
        """Compute the results; None but in the main process.

        Raises:
            EvaluationError: an image of the split has no prediction, or the script gives up.
        """
        comm.synchronize()  # predictions of all processes are in the folder
        folder = self._metadata.gt_dir  # type: ignore[attr-defined]
        if comm.is_main_process():
            files = Path(self._temp_dir).glob(f"*_pred{self.suffix}")  # type: ignore[attr-defined]
            predicted = {image_id(file.name) for file in files}
            labels = find_labels(folder, self.labels)
            for image, file in labels.items():
                if image not in predicted:
                    raise _no_prediction(file, len(predicted), len(labels))
        printed = StringIO()
        try:
            with redirect_stdout(printed):
                results = super().evaluate()  # type: ignore[misc]
        except SystemExit as exit_:
            reason = printed.getvalue().rpartition("ERROR: ")[2].strip()
            raise EvaluationError(
                f"the official Cityscapes script gave up: {reason}. If it is about a label, unpack "
                "or prepare that file again"
            ) from exit_
        except (OSError, SyntaxError) as error:  # Pillow, on a damaged label
            raise find_unreadable(
                sorted(Path(folder).glob("*/*_gtFine_*Ids.png")), error
            ) from error
        logger.debug("%s", printed.getvalue())
        return _as_floats(results)


def _as_floats(results: Results | None) -> TaskResults | None:
    if results is None:  # not the main process
        return None
    return {
        task: {name: float(value) for name, value in numbers.items()}
        for task, numbers in results.items()
    }


class OfficialCityscapesSemanticEvaluator(_CityscapesScript, CityscapesSemSegEvaluator):
    """Intersection over union, `sem_seg.IoU` (the mIoU of papers), iIoU and those of categories.

    Outputs need "sem_seg" at the size of the image file: (K, H, W) scores of train ids, or (H, W)
    train ids, of which all others than 0..18 mean that the pixel has none.
    """

    labels, suffix = "_gtFine_labelIds.png", ".png"

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


class OfficialCityscapesInstanceEvaluator(_CityscapesScript, CityscapesInstanceEvaluator):
    """Average precision of masks, `segm.AP` and `segm.AP50`.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_classes` (train ids), `scores`.
    """

    labels, suffix = "_gtFine_instanceIds.png", ".txt"

    def evaluate(self) -> TaskResults | None:
        """See the base."""
        average = partial(_average_precisions, instance_script.evaluateMatches)
        with (
            # It writes matches.json into the working folder (and cannot, with NumPy 2), and a cache
            # of the ground truth into the temporary one: both are for later runs by hand.
            patch.object(instance_script, "writeDict2JSON", lambda content, file: None),
            patch.object(instance_script, "evaluateMatches", average),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
            return super().evaluate()


def _average_precisions(
    official: Callable[[Any, Any], np.ndarray], matches: dict[str, Any], args: Any
) -> np.ndarray:
    """Average precisions (1, classes, overlaps) by the script; 0 where it raises IndexError.

    It does when all instances of a class are missed and all predictions of it are ignored (on void,
    groups or tiny instances): its list of scores is empty then.
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
        """
        Args:
            dataset: a panoptic dataset of Detectron2's catalogs whose metadata has `json_file`.
        """
        with redirect_stdout(StringIO()):
            super().__init__(dataset, tasks=("bbox", "segm"), use_fast_impl=False)
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

    def evaluate(self, img_ids: list[int] | None = None) -> TaskResults:
        """Compute the results; empty but in the main process."""
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

    def evaluate(self) -> TaskResults | None:
        """Compute the results; None but in the main process."""
        with np.errstate(divide="ignore", invalid="ignore"):  # truth that is void everywhere
            results = super().evaluate()
        return _as_floats(results)


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

    def evaluate(self, img_ids: list[int] | None = None) -> TaskResults:
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
    for image, (size, instances) in truth.items():
        images.append({"id": image, "height": size[0], "width": size[1]})
        for instance in instances:
            own = {
                "id": len(annotations) + 1,  # a match with 0 counts as none
                "image_id": image,
                "category_id": dataset_ids[instance["category_id"]],
            }
            annotations.append(instance | own)
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

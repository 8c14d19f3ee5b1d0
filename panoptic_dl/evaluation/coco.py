"""Box and mask AP by pycocotools (Lin et al., ECCV 2014), inside Detectron2's evaluator.

Shapes: N instances, H W pixels.
"""

import logging
from contextlib import redirect_stdout
from io import StringIO
from typing import Any

import torch
from detectron2.data import MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, Instances
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from panoptic_dl.evaluation.figures import EvaluationError

logger = logging.getLogger(__name__)


class COCOInstanceEvaluator(COCOEvaluator):
    """`bbox.AP` and `segm.AP`, and those at single overlaps, by area and by class.

    Outputs may have "instances" with `pred_masks` (N, H, W), `pred_boxes`, `pred_classes` (counted
    from 0 among the things) and `scores`. An image without them counts as one without predictions;
    Detectron2 forgets it, and reports nothing when that is so for all images. No predictions at all
    are an AP of 0 where there is something to find, as the official script has it, and not NaN.
    """

    def __init__(self, dataset: str) -> None:
        """Read the truth.

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
        """Compute the figures; empty but in the first process."""
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

"""COCO's instances file, which box and mask AP are measured with."""

from panoptic_dl.evaluation.coco_truth import read_instances

from ..patient import Patient
from ..verdicts import Verdict, judge
from .cures import Made, cure


def look_at_instances(title: str, patient: Patient) -> Verdict | None:
    """It can be read, and lists every image of the panoptic file, of the same size."""
    split = patient.splits[title]
    file = split.metadata.get("json_file")
    panoptic = split.metadata.get("evaluator_type") == "coco_panoptic_seg"
    if file is None or not panoptic or patient.choice["task"] != "panoptic":
        return None
    truth = read_instances(file, split.metadata["thing_dataset_id_to_contiguous_id"])
    sizes = split.listed_sizes
    failures = []
    for record in split.records:
        number = record["image_id"]
        if number not in truth:
            failures.append(f"{file}: image {number} ({record['file_name']}) is not listed")
        elif number in sizes and truth[number].size != sizes[number]:
            failures.append(
                f"{file}: image {number} is {truth[number].size}, {sizes[number]} in "
                f"{split.panoptic_json} (height, width)"
            )
    total = sum(len(image.instances) for image in truth.values())
    return judge(
        f"{total:,} instances for box and mask AP",
        "images are not as in the panoptic file",
        cure(patient, title, Made.LABELS),
        failures,
    )

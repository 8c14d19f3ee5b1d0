"""The classes of the config against those of the dataset."""

from ..patient import Patient
from ..verdicts import Verdict, judge


def look_at_classes(patient: Patient) -> Verdict:
    """The numbers of the config, and names and colours, are those of the dataset's catalog."""
    number, things = patient.part("num_classes"), sorted(patient.part("thing_ids"))
    classes = patient.part("classes")
    problems = []
    if len(classes) != number:
        problems.append(f"dataset.num_classes={number}, but dataset.classes are {len(classes)}")
    if sorted(classes.thing_ids) != things:
        odd = sorted(set(classes.thing_ids) ^ set(things))
        problems.append(f"dataset.thing_ids and things of dataset.classes differ in {odd}")
    for title, split in patient.splits.items():
        names = split.class_names
        if names and names != list(classes.names):
            odd = [(a, b) for a, b in zip(names, classes.names, strict=False) if a != b]
            first = f", first {odd[0][0]} for {odd[0][1]}" if odd else ""
            problems.append(
                f"{split.name} ({title}) has {len(names)} classes, dataset.classes "
                f"{len(classes)}{first}"
            )
        known = split.metadata.get("thing_dataset_id_to_contiguous_id")
        if known and split.contiguous and sorted(known.values()) != things:
            problems.append(f"things of {split.name} ({title}) are not dataset.thing_ids")
        if split.ignore_label != patient.ignore_label:
            problems.append(
                f"dataset.ignore_label={patient.ignore_label}, but {split.name} has "
                f"{split.ignore_label}"
            )
    return judge(
        f"{number} classes, {len(things)} of them things",
        "things are not as the dataset has them",
        "leave dataset.num_classes, thing_ids and ignore_label out, or choose the dataset= they "
        "belong to",
        problems,
    )

"""What the formats of custom datasets have in common: everything that comes from files."""

from detectron2.config import LazyCall as L

from panoptic_dl.core.classes import count_classes, thing_ids
from panoptic_dl.datasets.custom import custom_classes, custom_dataset
from panoptic_dl.evaluation.metrics import evaluator_configs


def _split(form, part):
    def of(task):
        return L(custom_dataset)(
            form=form,
            task=task,
            part=part,
            classes="${dataset.classes}",
            root="${dataset.root}",
            split=f"${{dataset.{part}_split}}",
            json=f"${{dataset.{part}_json}}",
            images=f"${{dataset.{part}_images}}",
            labels=f"${{dataset.{part}_labels}}",
            label_divisor="${dataset.label_divisor}",
            ignore_label="${dataset.ignore_label}",
        )

    return dict(panoptic=of("panoptic"), semantic=of("semantic"))


def custom_data(form):
    """Entries of `dataset` for custom data in the format of that name."""
    return dict(
        root=None,  # the folder of your data
        # Files and folders are found by the names of the splits ...
        train_split="train",  # name of the split to train on
        test_split="val",  # name of the split to evaluate on
        # ... or named, relative to the root.
        train_json=None,  # annotations to train on, relative to the root; null: found by the split
        train_images=None,  # folder of their images; null: found
        train_labels=None,  # folder of their label maps; null: found
        test_json=None,  # annotations to evaluate on; null: found by the split
        test_images=None,  # folder of its images; null: found
        test_labels=None,  # folder of its label maps; null: found
        classes_file=None,  # RUN/classes.json: classes of a run, where its dataset is not
        classes=L(custom_classes)(
            form=form,
            root="${dataset.root}",
            train_split="${dataset.train_split}",
            test_split="${dataset.test_split}",
            train_json="${dataset.train_json}",
            test_json="${dataset.test_json}",
            classes_file="${dataset.classes_file}",
        ),
        num_classes=L(count_classes)(classes="${dataset.classes}"),
        thing_ids=L(thing_ids)(classes="${dataset.classes}"),
        train=_split(form, "train"),
        test=_split(form, "test"),
        evaluators=evaluator_configs("custom"),
    )

"""What datasets in other formats have in common: they are converted once, into a cache."""

from detectron2.config import LazyCall as L

from panoptic_dl.datasets.importing import import_dataset

from ._custom import custom_data

OPTIONS = dict(  # of exports that hold objects alone
    background="stuff",  # what no annotation covers: one class, "stuff", or "void": not learnt
    stuff=[],  # names of classes that are not counted
    overlap="area",  # which instance is on top: the smaller one, or the later one, "order"
    crowds="keep",  # or objects: CVAT exports what its brush paints as crowds
)
SPLITTING = dict(
    empty_images="keep",  # without annotations: keep, or drop
    val_fraction=0.2,  # of the training images, where there are none to validate on
    split_seed=0,
)


def use_import(dataset, form, *options, **reader):
    """Give `dataset` the entries for data in the format `form`.

    Args:
        options: dicts of keys of `ImportOptions`.
        reader: keys of the format's own.
    """
    data = custom_data(form)
    keys = {key: value for each in options for key, value in each.items()}
    data |= {**keys, **{k: v for k, v in reader.items() if not str(v).startswith("$")}}
    data["imported"] = L(import_dataset)(
        form=form,
        root="${dataset.root}",
        cache="${oc.env:PANOPTIC_DL_CACHE,'~/.cache/panoptic-dl'}",
        train_split="${dataset.train_split}",
        test_split="${dataset.test_split}",
        classes_file="${dataset.classes_file}",
        reader={k: v if str(v).startswith("$") else f"${{dataset.{k}}}" for k, v in reader.items()},
        **{key: f"${{dataset.{key}}}" for key in keys},
    )
    for split in (data["train"], data["test"]):
        for task in split.values():
            task.root, task.images = "${dataset.imported}", "${dataset.root}"
            task.json = task.labels = None
    data["classes"].root = "${dataset.imported}"
    data["classes"].train_json = data["classes"].test_json = None
    dataset.update(data)
    for key in ("json", "images", "labels"):  # which are found in the export
        for part in ("train", "test"):
            dataset.pop(f"{part}_{key}")

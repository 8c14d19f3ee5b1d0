"""COCO: JSON files."""

from .fault import coco_json, fault, halve, image_of, label_of, segment_of


@fault("coco", "train data: sizes")
def size_wrong_in_json(root):
    coco_json(root, lambda content: content["images"][1].update(height=61))
    return str(image_of(root))


@fault("coco", "train data: areas")
def area_wrong(root):
    coco_json(root, lambda content: segment_of(content).update(area=9999))
    return f"{label_of(root)}: segment 70001 has area 9999"


@fault("coco", "train data: JSON file")
def area_missing(root):
    return coco_json(root, lambda content: segment_of(content).pop("area"))


@fault("coco", "train data: JSON file")
def segment_id_twice(root):
    def edit(content):
        segments = content["annotations"][1]["segments_info"]
        segments.append(dict(segments[1]))

    return coco_json(root, edit)


@fault("coco", "train data: JSON file")
def image_id_twice(root):
    return coco_json(root, lambda content: content["images"].append(content["images"][1]))


@fault("coco", "train data: JSON file")
def annotation_twice(root):
    def edit(content):
        content["annotations"].append(content["annotations"][1])

    return coco_json(root, edit)


@fault("coco", "train data: JSON file", "warn", **{"train data: layout": "warn"})
def image_without_annotation(root):
    return coco_json(root, lambda content: content["annotations"].pop())


@fault("coco", "train data: layout")
def annotation_without_image(root):
    return coco_json(root, lambda content: content["images"].pop(1))


@fault("coco", "train data: layout")
def category_unknown(root):
    return coco_json(root, lambda content: segment_of(content).update(category_id=4711))


@fault("coco", "train data: JSON file")
def category_renamed(root):
    return coco_json(root, lambda content: content["categories"][0].update(name="someone"))


@fault("coco", "train data: JSON file")
def thing_that_is_stuff(root):
    return coco_json(root, lambda content: content["categories"][1].update(isthing=0))


@fault("coco", "train data: JSON file")
def category_not_listed(root):
    return coco_json(root, lambda content: content["categories"].pop(1))


@fault("coco", "train data: JSON file")
def category_of_another_dataset(root):
    stranger = {"id": 999, "name": "unicorn", "isthing": 1}
    return coco_json(root, lambda content: content["categories"].append(stranger))


@fault("coco", "train data: JSON file")
def crowd_missing(root):
    return coco_json(root, lambda content: segment_of(content).pop("iscrowd"))


@fault("coco", "train data: JSON file")
def crowd_that_is_no_flag(root):
    return coco_json(root, lambda content: segment_of(content).update(iscrowd=2))


@fault("coco", "train data: JSON file", "warn")
def crowd_of_stuff(root):
    return coco_json(root, lambda content: segment_of(content, 0).update(iscrowd=1))


@fault("coco", "val data: instances file")
def instances_torn(root):
    return halve(root / "coco" / "annotations" / "instances_val2017.json")


@fault("coco", "val data: instances file")
def instances_of_fewer_images(root):
    def edit(content):
        gone = content["images"].pop()["id"]
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] != gone]

    return coco_json(root, edit, "instances_val2017")


@fault("coco", "val data: instances file")
def instances_of_another_category(root):
    return coco_json(
        root,
        lambda content: content["annotations"][0].update(category_id=4711),
        "instances_val2017",
    )

"""Names as papers print them."""

NAMES = {
    "xception65": "Xception-65",
    "hrnet18": "HRNet-18",
    "hrnet32": "HRNet-32",
    "hrnet48": "HRNet-48",
    "hrnet_tiny": "HRNet-tiny",
    "cityscapes": "Cityscapes",
    "coco": "COCO",
    "toy_cityscapes": "toy Cityscapes",
    "toy_coco": "toy COCO",
}


def part_name(option: str) -> str:
    """Of a backbone or head; one of one's own is called what its file is."""
    return NAMES.get(option, option)


def dataset_name(option: str) -> str:
    return NAMES.get(option, option)


def figure_name(name: str) -> str:
    """ "box_AP" is printed as "box AP"."""
    return name.replace("_", " ")

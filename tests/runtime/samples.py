"""An exported file with no network: its labels are the red of the image, by thirds of 0..255."""

from dataclasses import replace

import onnx
from onnx import parser

from panoptic_dl.core.classes import Classes
from panoptic_dl.runtime.session import PROPERTY, ExportMetadata

COLORS = ((128, 64, 128), (70, 130, 180), (220, 20, 60))
METADATA = ExportMetadata(
    task="panoptic",
    postprocess=True,
    classes=Classes(("road", "sky", "person"), COLORS, (2,), (7, 23, 24)),
    label_divisor=1000,
    stride=16,
    batch=None,
    height=None,
    width=None,
    resize={"short": 32, "longest": 64},
    precision="fp32",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57],
    parameters={"stuff_area": 0},
    provenance={"run": "outputs/mine"},
    opset=18,
)

# Classes of the valid pixels at output_size, of the nearest one; those of class 2 are one thing.
GRAPH = """
<ir_version: 9, opset_import: ["": 18]>
tiny (uint8[N, 3, H, W] images, int64[2] image_size, int64[2] output_size)
    => (OUTPUTS)
{
    none = Constant<value_ints: ints = [0, 0]>()
    sides = Constant<value_ints: ints = [2, 3]>()
    valid = Slice(images, none, image_size, sides)
    zero = Constant<value_ints: ints = [0]>()
    one = Constant<value_ints: ints = [1]>()
    red = Slice(valid, zero, one, one)
    real = Cast<to: int = 1>(red)
    shape = Shape(images)
    number = Slice(shape, zero, one)
    size = Concat<axis: int = 0>(number, one, output_size)
    resized = Resize<mode: string = "nearest", nearest_mode: string = "floor",
        coordinate_transformation_mode: string = "asymmetric">(real, , , size)
    third = Constant<value_float: float = 86.0>()
    divided = Div(resized, third)
    floors = Floor(divided)
    squeezed = Squeeze(floors, one)
    semantic = Cast<to: int = 2>(squeezed)
    thing = Constant<value_float: float = 2.0>()
    is_thing = Equal(squeezed, thing)
    instance = Cast<to: int = 6>(is_thing)
    category = Cast<to: int = 6>(squeezed)
    divisor = Constant<value: tensor = int32 {1000}>()
    times = Mul(category, divisor)
    panoptic = Add(times, instance)
    rows = Constant<value_ints: ints = [1, 2]>()
    any_thing = ReduceMax<keepdims: int = 0>(instance, rows)
    columns = Unsqueeze(any_thing, one)
    first = Constant<value: tensor = int32 {2002}>()
    found = Mul(columns, first)
    void = Constant<value: tensor = int32 {1}>()
    ids = Sub(found, void)
    no_thing = Sub(ids, ids)
    padding = Sub(no_thing, void)
    thing_ids = Concat<axis: int = 1>(ids, padding)
    as_scores = Cast<to: int = 1>(thing_ids)
    thousand = Constant<value_float: float = 4000.0>()
    scores = Div(as_scores, thousand)
}
"""
SEMANTIC = "uint8[N, h, w] semantic"
PANOPTIC = f"int32[N, h, w] panoptic, {SEMANTIC}, int32[N, 2] thing_ids, float[N, 2] scores"


def write_exported(file, text=None, **facts):
    """Write the file; `facts` replace those of METADATA, `text` all of the property."""
    metadata = replace(METADATA, **facts)
    outputs = PANOPTIC if metadata.task == "panoptic" else SEMANTIC
    model = parser.parse_model(GRAPH.replace("OUTPUTS", outputs))
    text = metadata.to_json() if text is None else text
    if text:
        onnx.helper.set_model_props(model, {PROPERTY: text})
    onnx.checker.check_model(model)
    onnx.save(model, file)
    return file

"""What an exported file says of itself is read as it was written, or refused in one line."""

import json
from dataclasses import replace

import pytest

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.runtime.metadata import FORMAT, ExportMetadata
from tests.runtime.samples import METADATA


def test_what_is_written_is_read():
    text = METADATA.to_json()
    assert text.isascii()
    assert ExportMetadata.from_json(text, "a.onnx") == METADATA
    plain = replace(METADATA, resize=None, height=None, batch=4)
    assert ExportMetadata.from_json(plain.to_json(), "a.onnx") == plain


def changed(**facts):
    return json.dumps(json.loads(METADATA.to_json()) | facts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "a.onnx has no panoptic_dl metadata: export it with mode=export"),
        ("{", "damaged panoptic_dl metadata.*no whole JSON"),
        ("[]", "damaged.*no object"),
        (json.dumps({"format": FORMAT}), "damaged.*there is no 'task'"),
        (changed(format=FORMAT + 1), f"of version {FORMAT + 1} of the format.*reads version 1"),
        (json.dumps({}), "of version None"),
        (changed(task="depth"), "task is depth, not panoptic or semantic"),
        (changed(postprocess=1), "postprocess is 1, not true or false"),
        (changed(classes={"names": ["a"]}), "damaged.*there is no 'colors'"),
        (changed(classes=None), "damaged"),
        (changed(stride=0), "stride is 0, not a number of at least 1"),
        (changed(width=-64), "width is -64"),
        (changed(height=65), "height is 65, no multiple of 16"),
        (changed(resize={"short": 3}), "there is no 'longest'"),
        (changed(resize={"short": 3, "longest": 1.5}), "resize.longest is 1.5"),
        (changed(batch="many"), "batch is many, not a whole number or null"),
        (changed(opset=True), "opset is True"),
    ],
)
def test_what_is_none_is_refused(text, message):
    with pytest.raises(WeightsError, match=message) as caught:
        ExportMetadata.from_json(text, "a.onnx")
    assert len(str(caught.value).splitlines()) == 1

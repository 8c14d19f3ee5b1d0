"""What an exported file says of itself is read as it was written, or refused in one line."""

import json
from dataclasses import replace

import pytest

from panoptic_dl.core.errors import WeightsError
from panoptic_dl.runtime.session import FORMAT, ExportMetadata
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
        ("[]", "damaged"),
        (json.dumps({"format": FORMAT}), "damaged.*there is no 'task'"),
        (json.dumps({}), "damaged.*there is no 'format'"),
        (changed(format=FORMAT + 1), f"of version {FORMAT + 1} of the format.*reads version 1"),
        (changed(task="depth"), "task is depth, not panoptic or semantic"),
        (changed(postprocess=1), "postprocess is 1, not true or false"),
        (changed(classes={"names": ["a"]}), "damaged.*there is no 'colors'"),
        (changed(classes=None), "damaged"),
        (changed(stride=0), "a size is 0"),
        (changed(width=-64), "a size is -64"),
        (changed(height=65), "a size is 65, with a stride of 16"),
        (changed(resize={"short": 3}), "there is no 'longest'"),
        (changed(resize={"short": 3, "longest": 1.5}), r"a size is 1\.5"),
        (changed(batch="many"), "batch is many, not a whole number or null"),
        (changed(opset=True), "opset is True"),
    ],
)
def test_what_is_none_is_refused(text, message):
    with pytest.raises(WeightsError, match=message) as caught:
        ExportMetadata.from_json(text, "a.onnx")
    assert len(str(caught.value).splitlines()) == 1

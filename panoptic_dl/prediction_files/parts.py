"""A JSON file from what several processes have written, image by image, in parts of their own.

A part has one line an image: the image as JSON, a tab, and the entries of the image as JSON with
tabs between them (JSON has no raw tabs). An image without entries has a line, too. Merging keeps a
few numbers an image in memory, and never a whole part.
"""

import json
from collections.abc import Collection, Hashable, Sequence
from pathlib import Path
from typing import Any

from detectron2.utils import comm

from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.prediction_files.files import whole, writing


class JsonParts:
    """The entries of one JSON file on their way there.

    Attributes:
        file: the JSON file: `head`, entries with commas and line ends between them, `tail`.
    """

    def __init__(self, file: Path, head: str = "[", tail: str = "]") -> None:
        """Remember the names; nothing is read or written."""
        self.file, self._head, self._tail = file, head, tail
        self._prefix = f".{file.name}.part"

    def is_part(self, name: str) -> bool:
        """Whether a name is that of a part of this file."""
        return name.startswith(self._prefix) and name.removeprefix(self._prefix).isdigit()

    def append(self, image: Hashable, entries: Sequence[dict[str, Any]]) -> None:
        """Write the entries of one image to this process's part.

        Raises:
            EvaluationError: the disk refuses it.
            ValueError: a number is not finite, which JSON cannot say.
        """
        cells = [json.dumps(image), *(json.dumps(entry, allow_nan=False) for entry in entries)]
        part = self._part(comm.get_rank())
        with writing(part), part.open("ab") as stream:  # closing it makes a full disk speak
            stream.write(("\t".join(cells) + "\n").encode())

    def merge(self, images: Collection[Hashable]) -> None:
        """Write the file from the parts of all processes, sorted by image, and remove them.

        Args:
            images: that must be there.

        Raises:
            EvaluationError: one is not; the disk refuses the file.
        """
        parts = [self._part(rank) for rank in range(comm.get_world_size())]
        places = sorted(place for rank, part in enumerate(parts) for place in _lines(part, rank))
        found = {place[0] for place in places}
        missing = next((image for image in images if image not in found), None)
        if missing is not None:
            raise EvaluationError(
                f"the predictions of image {missing} are not in {self.file.parent}: all processes "
                "must write to one disk; name a folder that all machines share"
            )
        with whole(self.file) as temporary, temporary.open("wb") as target:
            target.write(self._head.encode())
            separator = b"\n"
            streams = {}
            try:
                for _, rank, offset in places:
                    if rank not in streams:
                        streams[rank] = parts[rank].open("rb")
                    streams[rank].seek(offset)
                    for entry in streams[rank].readline().rstrip(b"\n").split(b"\t")[1:]:
                        target.write(separator + entry)
                        separator = b",\n"
            finally:
                for stream in streams.values():
                    stream.close()
            target.write(f"\n{self._tail}\n".encode())
        for part in parts:
            part.unlink(missing_ok=True)

    def _part(self, rank: int) -> Path:
        return self.file.with_name(f"{self._prefix}{rank}")


def _lines(part: Path, rank: int) -> list[tuple[Any, int, int]]:
    """Image, rank and offset in bytes of each line; none without the file."""
    places = []
    if part.exists():
        offset = 0
        with part.open("rb") as stream:
            for line in stream:
                places.append((json.loads(line.partition(b"\t")[0]), rank, offset))
                offset += len(line)
    return places

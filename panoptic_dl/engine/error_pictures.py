"""Pictures of the images that an evaluation found worst and best: where each lost its quality.

Every process keeps the predictions of its own candidates, compressed; all agree on the global best
and worst by exchanging qualities, and each draws those that it has.

Shapes: H W pixels, K classes.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm

from panoptic_dl.engine.error_rows import HEADINGS, RowDrawer
from panoptic_dl.engine.extremes import Extremes, Key, choose
from panoptic_dl.evaluation.figures import EvaluationError
from panoptic_dl.evaluation.most_likely import most_likely
from panoptic_dl.evaluation.processes import concatenate_over_processes
from panoptic_dl.visualize.sheet import fit, join_sheets, save_sheet

OURS = re.compile(r"(worst|best)(-\d+-.*)?\.png")
CELL_WIDTH, CELL_HEIGHT = 640, 480  # pixels; the height of a portrait, which is narrower


@dataclass(frozen=True)
class CompressedMap:
    """An (H, W) int32 map; a panoptic one of a street takes some 100 KB instead of 8 MB."""

    data: bytes
    shape: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> "CompressedMap":
        return cls(zlib.compress(np.ascontiguousarray(values, np.int32).tobytes(), 1), values.shape)

    def expand(self) -> np.ndarray:
        values = np.frombuffer(zlib.decompress(self.data), np.int32)
        return values.reshape(self.shape).astype(np.int64)


class ErrorPictures:
    """Keeps the predictions of the best and the worst images, and draws their errors."""

    def __init__(self, dataset: str, count: int, folder: Path) -> None:
        """
        Args:
            dataset: name in Detectron2's catalogs; the truth is read from its records.
            count: how many of the best, and of the worst, are drawn; 0 for none.
            folder: takes the PNGs; processes on several machines must share it.
        """
        self.dataset, self.count, self.folder = dataset, count, folder
        metadata = MetadataCatalog.get(dataset)
        self._drawer = RowDrawer(metadata)
        self._num_classes = len(metadata.stuff_classes)
        listed = DatasetCatalog.get(dataset) if count else []  # COCO's take seconds to read
        records = sorted(listed, key=lambda record: record["file_name"])
        self._records: list[dict[str, Any]] = records
        self._positions = {record["file_name"]: i for i, record in enumerate(records)}
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._extremes: Extremes[CompressedMap] = Extremes(self.count)
        self._measure = "PQ"

    def offer(self, item: dict[str, Any], output: dict[str, Any], quality: float) -> None:
        """Keep the prediction of an image if it is one of the best or worst so far.

        Args:
            item: "file_name" is used.
            output: "panoptic_seg": (H, W) of category * label_divisor + instance, -1 where void,
                and None; otherwise "sem_seg": (K, H, W) scores, or (H, W) classes, -1 for none.
            quality: of the image, 0..1: its PQ, or mIoU; it is left out if NaN.

        Raises:
            EvaluationError: the image is not in the dataset, or a prediction has another form.
        """
        if not self.count:
            return
        if item["file_name"] not in self._positions:
            raise EvaluationError(f"{item['file_name']} is not among the images of {self.dataset}")
        self._measure = "PQ" if "panoptic_seg" in output else "mIoU"
        key = float(quality), self._positions[item["file_name"]]
        self._extremes.offer(key, lambda: self._compress(output))

    def draw(self) -> list[Path]:
        """Draw the best and worst images of all processes; every process must call this.

        Writes `worst-<rank>-<image>.png`, `best-...` and a sheet of each, `worst.png`, `best.png`,
        into the folder, where those of an earlier evaluation are deleted. An image is drawn once,
        even where the dataset has fewer than 2 * count.

        Returns:
            The files of the sheets in the main process; [] elsewhere, and without any image.
        """
        if comm.is_main_process():
            self._delete_old()
        if not self.count:
            return []
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = np.array(self._extremes.keys, np.float64).reshape(-1, 2)
        everyone = concatenate_over_processes(mine)  # also waits until the old files are gone
        keys = [(float(quality), int(position)) for quality, position in everyone]
        chosen = dict(zip(("worst", "best"), choose(keys, self.count), strict=True))
        files = {kind: self._files(kind, chosen[kind]) for kind in chosen}
        for kind, images in chosen.items():
            for rank, (key, file) in enumerate(zip(images, files[kind], strict=True), 1):
                if key in self._extremes.kept:
                    self._draw(key, f"{kind} {rank}", file)
        comm.synchronize()
        if not comm.is_main_process():
            return []
        sheets = []
        for kind, parts in files.items():
            if parts:
                join_sheets(parts, self.folder / f"{kind}.png")
                sheets.append(self.folder / f"{kind}.png")
        return sheets

    def _compress(self, output: dict[str, Any]) -> CompressedMap:
        if "panoptic_seg" not in output:
            classes = most_likely(output["sem_seg"], self._num_classes)
            return CompressedMap.of(np.where(classes == self._num_classes, -1, classes))
        panoptic, segments = output["panoptic_seg"]
        if segments is not None:
            raise EvaluationError(
                "pictures of errors need a panoptic map of category * label_divisor + instance "
                "and no list of segments"
            )
        return CompressedMap.of(panoptic.cpu().numpy())

    def _delete_old(self) -> None:
        for file in self.folder.iterdir() if self.folder.is_dir() else ():
            if OURS.fullmatch(file.name):
                file.unlink()

    def _files(self, kind: str, keys: Sequence[Key]) -> list[Path]:
        names = [Path(self._records[position]["file_name"]).stem for _, position in keys]
        safe = [re.sub(r"[^A-Za-z0-9_.-]", "_", name) for name in names]
        return [self.folder / f"{kind}-{rank}-{name}.png" for rank, name in enumerate(safe, 1)]

    def _draw(self, key: Key, place: str, file: Path) -> None:
        quality, position = key
        record = self._records[position]
        prediction = self._extremes.kept[key].expand()
        size = fit(prediction.shape, CELL_WIDTH, CELL_HEIGHT)
        draw = self._drawer.panoptic if self._measure == "PQ" else self._drawer.semantic
        row = draw(record, prediction, size)
        name = Path(record["file_name"]).stem
        save_sheet(
            [row.pictures],
            HEADINGS,
            file,
            captions=[f"{place}:  {name}  ·  {self._measure} {100 * quality:.1f}  ·  {row.words}"],
            title=self.dataset,
            legend=row.legend,
            cell_width=CELL_WIDTH,
            cell_height=CELL_HEIGHT,
        )

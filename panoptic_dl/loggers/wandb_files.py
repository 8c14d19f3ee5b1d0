"""What Weights & Biases keeps in a run's folder: the run's id, and what it has written down.

A `.wandb` file is a LevelDB log after a header of 7 bytes: blocks of 32 KiB, in them pieces of a
checksum (4 bytes), a length (2) and a kind (1: whole, 2: first, 3: middle, 4: last), little-endian.
"""

import json
import os
import secrets
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panoptic_dl.whole_files import write_text

ID_FILE = "wandb.json"
HEADER, BLOCK, PIECE = 7, 32 * 1024, struct.Struct("<IHB")
WHOLE, FIRST, MIDDLE, LAST = 1, 2, 3, 4


def run_id(folder: Path) -> str:
    """The id of the folder's W&B run; a new one is written down first.

    Raises:
        ValueError: the file with the id is damaged.
        OSError: it cannot be written.
    """
    file = folder / ID_FILE
    try:
        known: Any = json.loads(file.read_text())["id"]
    except FileNotFoundError:
        known = secrets.token_hex(4)
        write_text(file, json.dumps({"id": known}) + "\n")
    except (ValueError, KeyError, TypeError):
        known = None
    if not isinstance(known, str) or not known.isalnum():
        raise ValueError(f"{file} is damaged; remove it, and a new W&B run is begun")
    return known


def last_step(folder: Path, run_id: str) -> int:
    """W&B's last step of a run in the files that it left here; -1: none."""
    return max(
        (step for file in _files(folder, run_id) for step in steps(file)),
        default=-1,
    )


def steps(file: Path) -> Iterator[int]:
    """W&B's steps of the history in a `.wandb` file."""
    for data in records(file.read_bytes()):
        record = _message(data)
        if record.WhichOneof("record_type") == "history":
            yield record.history.step.num


def _files(folder: Path, run_id: str) -> list[Path]:
    return sorted((folder / "wandb").glob(f"*run-*-{run_id}/run-{run_id}.wandb"))


def mend(folder: Path, run_id: str) -> None:
    """Cut off what a kill has torn, in the files of a run that nobody writes any more.

    `wandb sync` gives up at a torn record, and does not send the files that follow: those of the
    attempts that went on. A file in which nothing of the run is whole is removed.
    """
    for file in _files(folder, run_id):
        data = file.read_bytes()
        whole = list(_records(data))
        kinds = {_message(record).WhichOneof("record_type") for _, record in whole}
        if "run" not in kinds:
            file.unlink()
        elif whole[-1][0] < len(data):
            os.truncate(file, whole[-1][0])


def records(data: bytes) -> Iterator[bytes]:
    """The whole records of a `.wandb` file's bytes; one that a kill has torn is the end of it."""
    return (record for _, record in _records(data))


def _message(record: bytes) -> Any:
    from wandb.proto import wandb_internal_pb2

    messages: Any = wandb_internal_pb2
    return messages.Record.FromString(record)


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """With where each ends."""
    at, parts = HEADER, b""
    while at + PIECE.size <= len(data):
        if BLOCK - at % BLOCK < PIECE.size:  # too little of the block is left for a piece
            at += BLOCK - at % BLOCK
            continue
        checksum, length, kind = PIECE.unpack_from(data, at)
        part = data[at + PIECE.size : at + PIECE.size + length]
        if len(part) < length or zlib.crc32(part, zlib.crc32(bytes([kind]))) != checksum:
            return
        at += PIECE.size + length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST):
            yield at, parts

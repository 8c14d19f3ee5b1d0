"""Images of the training split that could not be read: named, counted, bounded."""

import json
import logging
from pathlib import Path

from detectron2.utils import comm

logger = logging.getLogger(__name__)

FILE = "bad_samples.json"


class BadSamples:
    """The images that others stood in for, over all processes and resumed runs of a run.

    `run_dir/bad_samples.json` lists them: {file: error}.
    """

    def __init__(self, run_dir: Path, limit: int) -> None:
        self.run_dir, self.limit = run_dir, limit
        self.known: dict[str, str] = {}

    def add(self, met: dict[str, str]) -> None:
        """Take note of what the processes have met in a step; called by all of them.

        Raises:
            ValueError: in every process, when there are more than the limit.
        """
        new: dict[str, str] = {}
        for of_process in comm.all_gather(met):
            new |= {file: error for file, error in of_process.items() if file not in self.known}
        if not new:
            return
        self.known |= new
        if comm.is_main_process():
            try:
                (self.run_dir / FILE).write_text(json.dumps(self.known, indent=1) + "\n")
            except OSError as failure:  # the warnings say it, too
                logger.error("Cannot write %s: %s", self.run_dir / FILE, failure)
        for file, error in new.items():
            logger.warning(
                "Another image stands in for %s (bad image %d of at most %d): %s",
                file,
                len(self.known),
                self.limit,
                error,
            )
        if len(self.known) > self.limit:
            raise ValueError(
                f"{len(self.known)} images of the training split cannot be read, more than "
                f"dataset.max_bad_samples={self.limit} allows; {self.run_dir / FILE} lists them. "
                f"The last one: {list(new.values())[-1]}"
            )

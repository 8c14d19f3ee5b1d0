"""Where the machines of a run meet."""

import os
import re
import socket
from dataclasses import dataclass


@dataclass
class Machines:
    """Several machines that train together, seen from one of them.

    Args:
        number: of machines.
        rank: of this one, from 0.
        url: tcp://HOST:PORT, with HOST the machine of rank 0; `auto`: found out, if it can be.

    Raises:
        ValueError: numbers that cannot be, or no address where all can meet.
    """

    number: int
    rank: int
    url: str

    def __post_init__(self) -> None:
        if not isinstance(self.number, int) or self.number < 1:
            raise ValueError(f"launch.num_machines={self.number} must be a whole number, from 1")
        if not isinstance(self.rank, int) or not 0 <= self.rank < self.number:
            raise ValueError(
                f"launch.machine_rank={self.rank}: {self.number} machines have the ranks 0 to "
                f"{self.number - 1}"
            )
        if self.number > 1 and self.url == "auto":
            self.url = _address_from_slurm() or "auto"
        if self.url == "auto":
            if self.number > 1:
                raise ValueError(
                    "launch.num_machines needs a place to meet: launch.dist_url=tcp://HOST:PORT, "
                    "with HOST the machine of launch.machine_rank=0 and PORT a free one of it"
                )
        elif not re.fullmatch(r"tcp://(\[[^\]]+\]|[^:/]+):\d{1,5}", self.url):
            raise ValueError(f"launch.dist_url={self.url} must be tcp://HOST:PORT")

    def must_be_one(self, starter: str) -> None:
        """Refuse numbers that compete with those of `starter`."""
        if self.number > 1:
            raise ValueError(
                f"{starter} knows the machines itself: leave launch.num_machines out, or {starter}"
            )

    def check_port(self) -> None:
        """Raise ValueError when the port of this machine, of rank 0, is taken."""
        if self.url == "auto" or self.rank != 0:
            return
        port = int(self.url.rpartition(":")[2])
        with socket.socket() as place:
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                place.bind(("", port))
            except (OSError, OverflowError) as error:
                raise ValueError(
                    f"launch.dist_url={self.url}: port {port} cannot be used here ({error}); "
                    "choose another, on all machines"
                ) from None


def _address_from_slurm() -> str | None:
    """An address that all tasks of `srun` derive alike; None outside of SLURM.

    The port comes from the job's number, so that jobs that share a machine rarely collide.
    """
    host, job = os.environ.get("SLURM_LAUNCH_NODE_IPADDR"), os.environ.get("SLURM_JOB_ID")
    return f"tcp://{host}:{20000 + int(job) % 10000}" if host and job else None

"""The machines of a run: their launchers meet, and hear soon when one of them has failed.

Processes that wait in an operation of NCCL do not notice that another machine has failed or is
gone, until a timeout of many minutes. So the launcher of each machine keeps a connection with that
of machine 0, which passes on what it hears. The system closes it when a launcher ends, however that
happens; a machine or network that is gone no longer answers its keep-alive packets.
"""

import contextlib
import select
import socket
import sys
import time
from collections.abc import Collection
from typing import Any

from panoptic_dl.core.errors import LOST_PROCESS, how_it_ended
from panoptic_dl.core.run_folder import ExitCode, Requeued

GRACE = 5.0  # seconds that the processes of a run have to end by themselves when one has failed
GRACE_OF_SAVED = 60.0  # when one was asked to: all are, save, and may queue the job again
HEAD_START = 2.0  # of machine 0, which keeps the record: SLURM kills the others when one has ended
KEEP_ALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}  # 10 seconds; on Linux
DONE = "0 done"


class LostMachine(ConnectionError):
    """Another machine of the run has failed or is gone; `exit_code` is the one that it told."""

    def __init__(self, reason: str, exit_code: int) -> None:
        super().__init__(f"{LOST_PROCESS}: {reason}")
        self.reason, self.exit_code = reason, exit_code


class Machines:
    """The connections of this machine's launcher with those of the others, inside `with`."""

    def __init__(self, url: str, rank: int, number: int, processes: int, minutes: int) -> None:
        """Wait for the others, `number` with this one, at tcp://HOST:PORT of the one of rank 0.

        ValueError: not all come within so many minutes, or their ranks or processes do not fit.
        """
        self._rank, self._url, self._minutes = rank, url, minutes
        self._names: dict[socket.socket, str] = {}  # of the others
        self._lost: tuple[float, LostMachine] | None = None  # since when it counts
        if number > 1:
            print(f"Machine {rank} waits for the others at {url}", file=sys.stderr, flush=True)
            host, _, port = url.removeprefix("tcp://").rpartition(":")
            if rank == 0:
                self._gather(int(port), number, processes)
            else:
                self._join(host.strip("[]"), int(port), processes)
        self._silent = set(self._names)  # those that have not said how they end
        for peer in self._names:
            peer.settimeout(None)
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option in KEEP_ALIVE.keys() & vars(socket):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), KEEP_ALIVE[option])

    def _gather(self, port: int, number: int, processes: int) -> None:
        every = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if every else socket.AF_INET
        try:
            server = socket.create_server(("", port), family=family, dualstack_ipv6=every)
        except (OSError, OverflowError) as error:
            raise ValueError(
                f"launch.dist_url={self._url}: port {port} cannot be used here ({error}); choose "
                "another, on all machines"
            ) from None
        there, deadline = [(0, processes)], time.monotonic() + 60 * self._minutes
        with server:
            while len(there) < number and (left := deadline - time.monotonic()) > 0:
                server.settimeout(left)
                with contextlib.suppress(OSError, ValueError):  # nobody, or a stranger
                    peer, _ = server.accept()
                    peer.settimeout(5)
                    rank, count, name = peer.recv(500).decode().split()
                    there.append((int(rank), int(count)))
                    self._names[peer] = f"machine {rank} ({name})"
        ranks, counts = (list(each) for each in zip(*sorted(there), strict=True))
        fault = ""
        if ranks != [*range(number)] or len(set(counts)) > 1:
            fault = (
                f"of {number} machines came {ranks}, with {counts} processes, within "
                f"{self._minutes} minutes (launch.timeout_minutes): each needs its own "
                "launch.machine_rank, and all the same launch.num_gpus"
            )
        self._tell(fault or "go", self._names)
        if fault:
            raise ValueError(fault)

    def _join(self, host: str, port: int, processes: int) -> None:
        deadline, answer = time.monotonic() + 60 * self._minutes, "machine 0 has ended"
        while not self._names:
            try:
                peer = socket.create_connection((host, port), timeout=5)
                self._names[peer] = f"machine 0 ({host})"
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ValueError(f"machine 0 is not at {self._url}: {error}") from None
                time.sleep(0.5)
        peer.settimeout(60 * self._minutes)
        with contextlib.suppress(OSError):
            peer.sendall(f"{self._rank} {processes} {socket.gethostname()}".encode())
            said = b""  # up to the end of the line: what machine 0 says later is for `check`
            while not said.endswith(b"\n") and (byte := peer.recv(1)):
                said += byte
            answer = said.decode().strip() or answer
        if answer != "go":
            raise ValueError(answer)

    def check(self) -> None:
        """Raise LostMachine if one is lost; where it was stopped on request, after a while."""
        for peer in select.select(self._silent, [], [], 0)[0]:
            self._silent.remove(peer)
            said = f"1 {self._names[peer]} is gone: killed, or without power or network"
            with contextlib.suppress(OSError):
                said = peer.recv(500).decode().partition("\n")[0] or said
            if said == DONE:
                continue
            code, _, text = said.partition(" ")
            is_saved = int(code) == ExitCode.SAVED
            if not is_saved:
                self._tell(said, self._names.keys() - {peer})
            since = time.monotonic() + is_saved * GRACE_OF_SAVED
            self._lost = self._lost or (since, LostMachine(text, int(code)))
        if self._lost and time.monotonic() >= self._lost[0]:
            raise self._lost[1]

    def _tell(self, said: str, peers: Collection[socket.socket]) -> None:
        for peer in peers:
            with contextlib.suppress(OSError):
                peer.sendall(f"{said}\n".encode())

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        """Tell the others how this machine has ended."""
        code = max(1, getattr(error, "exit_code", 1)) if error else 0
        if isinstance(error, Requeued):
            code = ExitCode.SAVED
        how = how_it_ended(getattr(error, "exit_code", code))
        name = f"machine {self._rank} ({socket.gethostname()})"
        said = f"{code} {name}: a process {how}; its own message says why" if error else DONE
        if isinstance(error, LostMachine):
            said = f"{code} {error.reason}"
        self._tell(said, self._names)
        if error and self._rank > 0:
            seconds = GRACE_OF_SAVED if code == ExitCode.SAVED else 2 * GRACE
            select.select(self._silent, [], [], seconds * bool(self._silent))
            time.sleep(HEAD_START)
        for peer in self._names:
            peer.close()

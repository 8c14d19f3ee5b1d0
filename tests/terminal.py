"""A pseudo-terminal for programs that tests start, and what a person sees on it."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROOT = Path(__file__).parents[1]


def on_terminal(program, *arguments, columns=80, stdout=None, interrupt_at=None, **environment):
    """What a program in Python writes on a terminal, and its exit code.

    With `stdout`, only its errors go there. It gets SIGINT once `interrupt_at`, a pattern, is seen.
    """
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    known = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "JPY_PARENT_PID")}
    environment = known | {"TERM": "xterm", "PYTHONPATH": str(ROOT)} | environment
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdout=stdout or side, stderr=side, env=environment) as process:
        os.close(side)
        written = b""
        with contextlib.suppress(OSError):  # the end, on Linux
            while block := os.read(main, 65536):
                written += block
                if interrupt_at and re.search(interrupt_at, written.decode(errors="replace")):
                    interrupt_at = process.send_signal(signal.SIGINT)
    os.close(main)
    return written.decode(), process.returncode


def shown(written):
    """The lines that stay on a terminal; of its commands those that bars use: up, and erase."""
    lines, row = [""], 0
    for text in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", written):
        if text == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif text == "\x1b[2K":
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d*A", text):
            row -= int(text[2:-1] or 1)
        elif not text.startswith(("\x1b", "\r")):
            lines[row] += text
    return "\n".join(lines).rstrip("\n").split("\n")

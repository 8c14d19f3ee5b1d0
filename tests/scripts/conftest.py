"""Run the scripts that prepare datasets, in this process."""

import runpy
import signal
import sys
from pathlib import Path

import pytest

from preparation import STOPPING

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def run_script(monkeypatch, capsys):
    """`run_script(name, *arguments)`: exit code, standard output and standard error."""
    handlers = {number: signal.getsignal(number) for number in STOPPING}

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        code = 0
        try:
            runpy.run_path(str(SCRIPTS / name), run_name="__main__")
        except SystemExit as exit_:  # a text goes to standard error, and means 1
            code = 1 if isinstance(exit_.code, str) else exit_.code
            print(exit_.code if isinstance(exit_.code, str) else "", file=sys.stderr)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)
